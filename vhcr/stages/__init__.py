"""One file per stage: read files, call one room, write files."""

import os

from vhcr.tether import end_with_parent

if "DVC_STAGE" in os.environ or "VHCR_TETHERED" in os.environ:
    # DVC that is killed cannot stop its stage, which would go on by itself and keep a core. As it is, a
    # training leaves a checkpoint, and everything else ends. Here, since what a stage imports takes it some
    # seconds; on a busy machine a minute.
    end_with_parent(known_as="python")
