"""A trained run that answers: requests checked, conversations back; as an MLflow model."""
