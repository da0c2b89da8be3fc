# ruff: noqa: E501 - one mistake a line
"""Plausible mistakes, each put into a copy of the package, to see whether some test fails.

A mistake is (name, file, old text, new text, tests); the old text must stand in the file exactly once, so that
a mistake that the code has outgrown is an error and not a silent pass. Nothing is ever changed in the working
tree. Writes results/mutations.json; exits with status 1 if a mistake survives, 2 if one cannot be made.

    python -m tests.mutations                 all of them
    python -m tests.mutations kl objective    those whose name or file contains one of these
    python -m tests.mutations --jobs 4        so many at a time

To add one, append to MUTATIONS; ``tests`` are the files most likely to notice, run quickest first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from vhcr.files import write_json

ROOT = Path(__file__).parents[1]
LIMIT = 900  # seconds for one run of tests
STALLED = -1  # the status of one that took longer: it has caught nothing
COPIED = ("vhcr", "tests", "docs", "params.yaml", "pyproject.toml")
MODELS = "tests/models/"
ORACLE = MODELS + "test_oracle.py"


@dataclass(frozen=True)
class Mutation:
    """One mistake, and the tests that should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _m(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, file, old, new, tests)


GAUSSIAN = "vhcr/models/gaussian.py"
CONVERSATION_MODEL = "vhcr/models/conversation_model.py"
HIERARCHICAL = "vhcr/models/hierarchical.py"
LAYERS = "vhcr/models/layers.py"
NOISE = "vhcr/models/noise.py"
OBJECTIVE = "vhcr/models/objective.py"
INITIALISATION = "vhcr/models/initialisation.py"
LOOP = "vhcr/training/loop.py"
PROJECTION = "vhcr/models/kernels/projection.py"
READING = "vhcr/models/reading.py"
RECURRENT = "vhcr/models/kernels/recurrent.py"
BUILD = "vhcr/models/build.py"
BATCH = "vhcr/batch.py"
TOKEN_FILES = "vhcr/token_files.py"
ORDER = "vhcr/training/order.py"
TEST_ORDER = "tests/training/test_order.py"
TEST_GAUSSIAN = MODELS + "test_gaussian.py"
TEST_DROPS = MODELS + "test_drops.py"
TEST_NOISE = MODELS + "test_noise.py"
TEST_OBJECTIVE = MODELS + "test_objective.py"
TEST_INITIALISATION = MODELS + "test_initialisation.py"
TEST_LOOP = "tests/training/test_loop.py"
TEST_PRECISION = "tests/training/test_precision.py"
TEST_PACKING = MODELS + "test_packing.py"
TEST_PEEKING = MODELS + "test_peeking.py"
TEST_PROJECTION = MODELS + "test_projection.py"
TEST_READINGS = MODELS + "test_readings.py"
TEST_RECURRENT = MODELS + "test_recurrent.py"
TEST_BATCH = "tests/test_batch.py"
DECODE = "vhcr/generation/decode.py"
RESPOND = "vhcr/generation/respond.py"
ANSWER = "vhcr/serving/answer.py"
LIKELIEST = "vhcr/generation/likeliest.py"
CONTROL = "vhcr/generation/control.py"
RESPONSES = "vhcr/evaluation/responses.py"
TEST_EVALUATE = "tests/stages/test_evaluate.py"
LIKELIHOOD = "vhcr/evaluation/likelihood.py"
STATISTICS = "vhcr/results/statistics.py"
EMBEDDING = "vhcr/evaluation/embedding_metrics.py"
SPOOL_FILE = "vhcr/tokenisation/spool.py"
CUT = "vhcr/tokenisation/cut.py"
ENCODE = "vhcr/tokenisation/encode.py"
SPLITS_FILE = "vhcr/tokenisation/splits.py"
VOCABULARY = "vhcr/tokenisation/vocabulary.py"
TOKENISER = "vhcr/tokenisation/tokeniser.py"
LEAKAGE = "vhcr/tokenisation/leakage.py"
EMBEDDINGS = "vhcr/embeddings.py"
TEST_DATASET = "tests/tokenisation/test_dataset.py"
TEST_SPLITS = "tests/tokenisation/test_splits.py"
TEST_VOCABULARY = "tests/tokenisation/test_vocabulary.py"
TEST_TOKENISER = "tests/tokenisation/test_tokeniser.py"
TEST_EMBEDDINGS = "tests/test_embeddings.py"
WORD_VECTORS = "vhcr/word_vectors.py"
TEST_WORD_VECTORS = "tests/test_word_vectors.py"
TEXT_METRICS = "vhcr/evaluation/text_metrics.py"
LATENTS = "vhcr/evaluation/latents.py"
MOMENTS = "vhcr/training/moments.py"
PROBES = "vhcr/evaluation/probes.py"
CLAIMS = "vhcr/report/claims.py"
USE = "vhcr/results/use.py"
EVIDENCE = "vhcr/results/compare.py"
TEST_STATISTICS = "tests/results/test_statistics.py"
TEST_EMBEDDING = "tests/evaluation/test_embedding_metrics.py"
TEST_TEXT_METRICS = "tests/evaluation/test_text_metrics.py"
TEST_LATENTS = "tests/evaluation/test_latents.py"
TEST_MOMENTS = "tests/training/test_moments.py"
TEST_CLAIMS = "tests/report/test_claims.py"
TEST_TABLES = "tests/report/test_tables.py"
TEST_LIKELIHOOD = "tests/evaluation/test_likelihood.py"
CHAT = "vhcr/generation/chat.py"
TEST_DECODE = "tests/generation/test_decode.py"
TEST_RESPOND = "tests/generation/test_respond.py"
TEST_ANSWER = "tests/serving/test_answer.py"
TEST_LIKELIEST = "tests/generation/test_likeliest.py"
TEST_CONTROL = "tests/generation/test_control.py"
TEST_CHAT = "tests/generation/test_chat.py"

PAIRS = "vhcr/human_evaluation/pairs.py"
STUDY = "vhcr/human_evaluation/study.py"
LOOPBACK = "vhcr/loopback.py"
PREFERENCE = "vhcr/human_evaluation/preference.py"
MTURK = "vhcr/human_evaluation/mturk.py"
HUMAN = "tests/human_evaluation/"
TEST_PAIRS = HUMAN + "test_pairs.py"
TEST_STUDY = HUMAN + "test_study.py"
TEST_SERVER = HUMAN + "test_server.py"
TEST_PREFERENCE = HUMAN + "test_preference.py"
TEST_PLATFORMS = HUMAN + "test_platforms.py"

MUTATIONS: list[Mutation] = [
    # --- the Gaussian ---
    _m("variance taken for a deviation", GAUSSIAN, "self.mu + self.var.sqrt() * eps", "self.mu + self.var * eps", TEST_GAUSSIAN),
    _m("KL of p and q swapped", GAUSSIAN, "return posterior.kl(prior)", "return prior.kl(posterior)", TEST_GAUSSIAN),
    _m("KL without the squared distance's variance", GAUSSIAN, "(self.mu - other.mu) ** 2 / other.var)\n\n    @classmethod", "(self.mu - other.mu) ** 2)\n\n    @classmethod", TEST_GAUSSIAN),
    _m("sign of log ratio in KL", GAUSSIAN, "ratio - 1.0 - ratio.log()", "ratio - 1.0 + ratio.log()", TEST_GAUSSIAN),
    _m("sampled KL with its sign turned", GAUSSIAN, "posterior.log_prob(z) - prior.log_prob(z)", "prior.log_prob(z) - posterior.log_prob(z)", TEST_GAUSSIAN),
    _m("log density without 2 pi", GAUSSIAN, "math.log(2.0 * math.pi) + ", "", TEST_GAUSSIAN),
    _m("relu for tanh in the MLPs", GAUSSIAN, "torch.tanh(at_least_float32(layer(hidden)))", "torch.relu(at_least_float32(layer(hidden)))", ORACLE),
    _m("exp for softplus", GAUSSIAN, "functional.softplus(at_least_float32(self.var(hidden)))", "at_least_float32(self.var(hidden)).exp()", ORACLE),
    _m("no least variance", GAUSSIAN, "+ MIN_VARIANCE)", "+ 0.0)", TEST_GAUSSIAN),
    _m("prior drawn from the posterior", GAUSSIAN, "return prior.sample(eps)", "return posterior.sample(eps)", TEST_GAUSSIAN),
    # --- HRED ---
    _m("first utterance's words counted by the release", CONVERSATION_MODEL, "batch.by_turn(batch.num_words * scored)", "batch.by_turn(batch.num_words)", TEST_READINGS),
    _m("KL of the first utterance kept by the release", CONVERSATION_MODEL, "kl_utt * scored", "kl_utt", TEST_READINGS),
    _m("off by one in which turns are scored", CONVERSATION_MODEL, "return (batch.turn > 0).long()", "return (batch.turn > 1).long()", TEST_READINGS),
    _m("word errors of the first turn scored by the release", CONVERSATION_MODEL, "scored = batch.turn[batch.word_row] > 0", "scored = batch.turn[batch.word_row] >= 0", TEST_READINGS),
    _m("word drop in evaluation too", HIERARCHICAL, "        if self.training:\n            input_ids", "        if True:\n            input_ids", TEST_DROPS),
    _m("utterance drop in evaluation too", HIERARCHICAL, "if not self.training or self.h_unk is None", "if self.h_unk is None", TEST_DROPS),
    _m("word drop only in evaluation", HIERARCHICAL, "        if self.training:\n            input_ids", "        if not self.training:\n            input_ids", TEST_DROPS),
    _m("errors summed at the wrong rows", CONVERSATION_MODEL, "zero.index_add(0, batch.word_row, word_errors)", "zero.index_add(0, batch.row_rank[batch.word_row], word_errors)", ORACLE),
    _m("decoder sees no context", HIERARCHICAL, "h_cxt if self.system.decoder_sees_context", "h_cxt * 0 if self.system.decoder_sees_context", ORACLE),
    _m("bag-of-words error of the first utterance kept", CONVERSATION_MODEL, "zero if bag_of_words_error is None else bag_of_words_error * scored", "zero if bag_of_words_error is None else bag_of_words_error", TEST_READINGS),
    # --- VHRED ---
    _m("prior and posterior swapped", HIERARCHICAL, "draw(posterior, prior, self.utterance_noise", "draw(prior, posterior, self.utterance_noise", ORACLE, TEST_PEEKING),
    _m("one noise for all turns", HIERARCHICAL, "batch.sample[of], batch.turn, size", "batch.sample[of], batch.turn * 0, size", TEST_PACKING),
    _m("noise keyed by place in the batch", HIERARCHICAL, '"z_utt", batch.index[of]', '"z_utt", of', TEST_PACKING),
    _m("one noise for all draws", HIERARCHICAL, "batch.sample[of], batch.turn, size", "batch.sample[of] * 0, batch.turn, size", TEST_PACKING, TEST_GAUSSIAN),
    _m("KL averaged over dimensions", HIERARCHICAL, "kl_utt = divergence(posterior, prior, z_utt).sum(-1)", "kl_utt = divergence(posterior, prior, z_utt).mean(-1)", ORACLE),
    _m("KL of z_utt forgotten", HIERARCHICAL, "latents, kl_utt, kl_conv, bag)", "latents, None, kl_conv, bag)", ORACLE),
    _m("posterior mean for a draw", HIERARCHICAL, "z_utt = draw(posterior, prior, self.utterance_noise(batch, noise, h_cxt))", "z_utt = posterior.mu", ORACLE),
    # --- VHCR ---
    _m("z_conv missing from the context's inputs", HIERARCHICAL, "self.context(joined(dropped, z_rows),", "self.context(joined(dropped, None if z_rows is None else z_rows * 0),", ORACLE),
    _m("context of VHCR starts from zeros", HIERARCHICAL, "start = self.context_start(batch.num_conversations, z_conv)\n        if", "start = self.context_start(batch.num_conversations, z_conv) * 0\n        if", ORACLE),
    _m("prior of z_utt without z_conv", HIERARCHICAL, "prior = self.utterance_prior(h_cxt, z_rows)", "prior = self.utterance_prior(h_cxt, None if z_rows is None else z_rows * 0)", ORACLE),
    _m("posterior of z_utt without z_conv", HIERARCHICAL, "self.utterance_posterior(h_enc, h_cxt, z_rows)", "self.utterance_posterior(h_enc, h_cxt, None if z_rows is None else z_rows * 0)", ORACLE),
    _m("posterior of z_utt sees dropped vectors", HIERARCHICAL, "self.utterance_posterior(h_enc, h_cxt, z_rows)", "self.utterance_posterior(dropped, h_cxt, z_rows)", TEST_DROPS),
    _m("a decoder that hears its sources at the start alone", LAYERS, "return hidden if self.skip is None else hidden +", "return hidden if True else hidden +", ORACLE),
    _m("the sources of the first utterance for all", LAYERS, "index_select(0, batch.word_row)", "index_select(0, batch.word_row * 0)", ORACLE),
    _m("generation leaves the sources out after the start", LAYERS, "return layers[:, -1] + added[:, 0], torch.cat([layers, added], dim=1)", "return layers[:, -1], torch.cat([layers, added], dim=1)", TEST_PEEKING),
    _m("what is added at every step grows", LAYERS, "torch.cat([layers, added], dim=1)\n", "torch.cat([layers, added * 1.1], dim=1)\n", TEST_PEEKING),
    _m("a summed loss is a mean", LOOP, 'among = 1 if params.loss_reduction == "sum" else', 'among = 1 if False else', TEST_LOOP),
    _m("the learning rate falls by epochs", LOOP, "learning_rate(position.step, total_steps, params)", "learning_rate(position.epoch, total_steps, params)", TEST_LOOP),
    _m("the release's first input is never dropped", HIERARCHICAL, "sos=self.reading.drops_sos", "sos=False", ORACLE),
    _m("the release's contexts start from their own z_conv", HIERARCHICAL, "self.training and self.reading.shuffles_context_starts", "False", TEST_DROPS),
    _m("contexts start from another's z_conv in scoring too", HIERARCHICAL, "self.training and self.reading.shuffles_context_starts", "self.reading.shuffles_context_starts", TEST_DROPS),
    _m("the release's gates are orthogonal each", BUILD, "network.reading.orthogonal_across_gates", "False", TEST_INITIALISATION),
    _m("the release's h_unk begins short", READING, "h_unk_deviation=1.0", "h_unk_deviation=0.1", TEST_INITIALISATION),
    _m("a corpus's own systems are not heard", "vhcr/params.py", 'self._defined("corpora", corpus)["system"]', "{}", "tests/test_params.py"),
    _m("decoder without z_conv", HIERARCHICAL, "self.decoder_start(h_cxt, z_utt, z_rows)", "self.decoder_start(h_cxt, z_utt, None if z_rows is None else z_rows * 0)", ORACLE),
    _m("latents in another order at the bag of words", HIERARCHICAL, "joined(z_utt, z_rows), batch)", "joined(z_rows, z_utt), batch)", ORACLE),
    _m("f_conv's reading turned round", HIERARCHICAL, "dropped if self.reading.conversation_encoder_sees_drops else h_enc", "h_enc if self.reading.conversation_encoder_sees_drops else dropped", TEST_DROPS),
    _m("KL of z_conv forgotten", HIERARCHICAL, "latents, kl_utt, kl_conv, bag)", "latents, kl_utt, None, bag)", ORACLE),
    _m("z_conv of another conversation", HIERARCHICAL, "else z_conv[batch.conversation]", "else z_conv[batch.conversation.flip(0)]", ORACLE),
    _m("no tanh at the start of the context", HIERARCHICAL, "torch.tanh(at_least_float32(self.context_from_z_conv(z_conv)))", "at_least_float32(self.context_from_z_conv(z_conv))", ORACLE),
    # --- layers ---
    _m("context sees the utterance of its own turn", LAYERS, "inputs[batch.previous_row]", "inputs[batch.num_conversations :]", TEST_PEEKING),
    _m("first layer's state for the context's top", LAYERS, "first = start[:, -1]", "first = start[:, 0]", ORACLE),
    _m("utterances not put back in order", LAYERS, "return by_length[batch.row_rank]", "return by_length", ORACLE),
    _m("utterances put back by the wrong order", LAYERS, "return by_length[batch.row_rank]", "return by_length[batch.row_order]", ORACLE),
    _m("decoder started in the wrong order", LAYERS, "layers[batch.row_order], batch.step_sizes", "layers, batch.step_sizes", ORACLE),
    _m("decoder hears what it predicts", HIERARCHICAL, "input_ids = batch.input_ids\n", "input_ids = batch.token_ids\n", TEST_PEEKING),
    _m("EOS in the bag of words", LAYERS, "inner[batch.last_word] = False", "inner[batch.last_word] = True", ORACLE),
    _m("SOS dropped too", LAYERS, "dropped &= batch.word_step > 0", "pass", TEST_DROPS),
    _m("drop rate for keep rate, words", LAYERS, "dropped = coin < probability\n", "dropped = coin > probability\n", TEST_DROPS),
    _m("drop rate for keep rate, utterances", LAYERS, "torch.where((coin < probability).unsqueeze(-1), h_unk, h_enc)", "torch.where((coin < probability).unsqueeze(-1), h_enc, h_unk)", TEST_DROPS),
    _m("one coin per position in the paper's reading", LAYERS, "    if shared:\n        keys", "    if True:\n        keys", TEST_DROPS),
    _m("one coin per turn in the paper's reading", LAYERS, "torch.zeros_like(batch.turn) if shared else batch.index[batch.conversation]", "torch.zeros_like(batch.turn)", TEST_DROPS),
    _m("drops written in place", LAYERS, "return torch.where((coin < probability).unsqueeze(-1), h_unk, h_enc)", "h_enc.data[coin < probability] = h_unk.detach().to(h_enc.dtype)\n    return h_enc", TEST_DROPS),
    _m("after: the first turn's state", LAYERS, "batch.turn_sizes)[batch.last_row]", "batch.turn_sizes)[: batch.num_conversations]", TEST_PEEKING),
    _m("words of one utterance share a coin", LAYERS, 'noise.uniform("word drop", *keys, batch.word_step)', 'noise.uniform("word drop", *keys, batch.word_step * 0)', TEST_DROPS),
    # --- noise ---
    _m("radius and angle from one stream", NOISE, '{purpose}/angle', '{purpose}/radius', TEST_NOISE),
    _m("Box-Muller without its factor two", NOISE, "torch.sqrt(-2.0 *", "torch.sqrt(-1.0 *", TEST_NOISE),
    _m("step not in the key", NOISE, "for key in (self.seed, self.step):", "for key in (self.seed,):", TEST_NOISE),
    _m("arithmetic shift", NOISE, "return (x >> bits) & ((1 << (64 - bits)) - 1)", "return x >> bits", TEST_NOISE),
    # --- the recurrent kernels ---
    _m("update gate turned round", RECURRENT, "torch.lerp(candidate, state, update, out=output)", "torch.lerp(state.clone(), candidate, update, out=output)", TEST_RECURRENT),
    _m("reset gate forgotten in the gradient", RECURRENT, "torch.mul(grad_n, r, out=grad_own)", "grad_own.copy_(grad_n)", TEST_RECURRENT),
    _m("gradient of the start forgotten", RECURRENT, "[grad_start, *grads]", "[grad_start.clone(), *grads]", TEST_RECURRENT),
    _m("bias gradient of the candidate's input half", RECURRENT, "grad_recurrent.sum(0)])", "grad_candidates.sum(0)])", TEST_RECURRENT),
    _m("backward direction not mirrored", RECURRENT, "back = backwards(inputs[mirrored], start, sizes)", "back = backwards(inputs, start, sizes)", TEST_RECURRENT),
    _m("second layer hears the backward states unmirrored", RECURRENT, "torch.cat([ahead, back[mirrored]], dim=1)", "torch.cat([ahead, back], dim=1)", TEST_RECURRENT),
    _m("every layer starts from the first state", RECURRENT, "layer(inputs, start[:, number], sizes, index", "layer(inputs, start[:, 0], sizes, index", TEST_RECURRENT),
    _m("step skips a layer's output", RECURRENT, "layer.step(inputs, state[:, number],", "layer.step(inputs, state[:, 0],", TEST_RECURRENT),
    _m("a start from zeros where some do not", RECURRENT, "bool(start.any())", "bool(start.all())", TEST_RECURRENT),
    _m("a step hears its own place's input", RECURRENT, "self.weight_ih.t(), self.bias_ih, index)", "self.weight_ih.t(), self.bias_ih, index * 0)", TEST_RECURRENT),
    _m("states that never start go to the library's kernel", RECURRENT, "start[: sizes[0]].unsqueeze(0)", "start.unsqueeze(0)", TEST_RECURRENT),
    # --- the output layer ---
    _m("target counted twice in the gradient", PROJECTION, "softmax.new_full((len(targets), 1), -1.0)", "softmax.new_full((len(targets), 1), -2.0)", TEST_PROJECTION),
    _m("weights of words ignored in the gradient", PROJECTION, "grad *= counts[here, None]\n            grad_bias", "grad *= 1.0\n            grad_bias", TEST_PROJECTION),
    _m("gradients of the last chunk alone", PROJECTION, "grad_weight.addmm_(grad.t(), hidden[here])", "torch.mm(grad.t(), hidden[here], out=grad_weight)", TEST_PROJECTION),
    _m("all words weigh like the first", PROJECTION, "elif not bool((grad_errors == first_grad).all()):", "elif False:", TEST_PROJECTION),
    _m("short: weights of words ignored", PROJECTION, "grad *= counts[here, None]\n                grad_bias", "grad *= 1.0\n                grad_bias", TEST_PROJECTION),
    _m("short: logits of rounded rows left in", PROJECTION, "logits[num_words - begin :] = 0", "pass", TEST_PROJECTION),
    _m("short: the last block's weight gradient alone", PROJECTION, "grad_weight.to(hidden.dtype) + product", "product", TEST_PROJECTION),
    _m("short: an unlikely word's error infinite", PROJECTION, "if bool(unlikely.any()):", "if False:", TEST_PROJECTION),
    _m("short: a step's state kept at another's place", RECURRENT, "        self.first += size", "        self.first += size - 1", TEST_PRECISION),
    _m("short: gradients of steps one over the other", RECURRENT, "        self.first -= size", "        self.first -= 1", TEST_PRECISION),
    _m("nothing to score not thought of", PROJECTION, "if len(grad_errors) == 0:", "if False:", TEST_PROJECTION),
    # --- the objective ---
    _m("ELBO with its sign turned", OBJECTIVE, "return -(output.reconstruction_error.sum(1)", "return +(output.reconstruction_error.sum(1)", TEST_OBJECTIVE),
    _m("ELBO without z_conv", OBJECTIVE, " + output.kl_utt.sum(1) + output.kl_conv)", " + output.kl_utt.sum(1))", TEST_OBJECTIVE),
    _m("ELBO adds the KL", OBJECTIVE, ".sum(1) + output.kl_utt.sum(1) + output.kl_conv)", ".sum(1) - output.kl_utt.sum(1) - output.kl_conv)", TEST_OBJECTIVE),
    _m("KL weight one step late", OBJECTIVE, "return final * step / annealing_steps", "return final * (step - 1) / annealing_steps", TEST_OBJECTIVE),
    _m("KL weight never annealed", OBJECTIVE, "if step >= annealing_steps:", "if step >= 0:", TEST_OBJECTIVE),
    _m("KL weight on z_utt alone", OBJECTIVE, "kl = kl_utt.sum() + kl_conv.sum()", "kl = kl_utt.sum()", TEST_OBJECTIVE),
    _m("bag-of-words weight ignored", OBJECTIVE, "bag_of_words_weight * output.bag_of_words_error.sum()", "output.bag_of_words_error.sum()", TEST_OBJECTIVE),
    _m("loss per utterance", OBJECTIVE, "output.num_words.sum().clamp_min(1)", "(output.num_words > 0).sum().clamp_min(1)", TEST_OBJECTIVE),
    _m("perplexity without the KL", OBJECTIVE, '"nll_per_word": (self.reconstruction_error + kl) / words', '"nll_per_word": self.reconstruction_error / words', TEST_OBJECTIVE),
    # --- remedies against a vanishing KL, and how weights begin ---
    _m("free bits for turns that are not there", OBJECTIVE, "torch.where(output.num_words > 0, kl_utt.clamp_min(free_bits_utt), kl_utt)", "kl_utt.clamp_min(free_bits_utt)", TEST_OBJECTIVE),
    _m("free bits taken off the KL", OBJECTIVE, "kl_conv = kl_conv.clamp_min(free_bits_conv +", "kl_conv = torch.relu(kl_conv - free_bits_conv -", TEST_OBJECTIVE),
    _m("free bits of a word counted once a conversation", OBJECTIVE, "words = output.num_words.sum(1).to(kl_conv)", "words = 1.0", TEST_OBJECTIVE),
    _m("free bits for a conversation are an utterance's", OBJECTIVE, "kl_conv = kl_conv.clamp_min(free_bits_conv +", "kl_conv = kl_conv.clamp_min(free_bits_utt +", TEST_OBJECTIVE),
    _m("a cycle that never rests", OBJECTIVE, "min(1.0, 2.0 * (step % length) / length)", "(step % length) / length", TEST_OBJECTIVE),
    _m("cycles after the annealing, too", OBJECTIVE, "if step >= annealing_steps:", "if cycles == 1 and step >= annealing_steps:", TEST_OBJECTIVE),
    _m("the final weight only at the end", OBJECTIVE, "return final * step / annealing_steps", "return step / annealing_steps", TEST_OBJECTIVE),
    _m("means normalised with the batch's numbers when scoring", GAUSSIAN, "batch = self.training and len(mu) > 1", "batch = len(mu) > 1", TEST_INITIALISATION),
    _m("a batch of one normalised by itself", GAUSSIAN, "batch = self.training and len(mu) > 1", "batch = self.training", TEST_INITIALISATION),
    _m("the scale of normalised means squared", GAUSSIAN, "torch.full_like(self.shift, self.scale)", "torch.full_like(self.shift, self.scale**2)", TEST_INITIALISATION),
    _m("means that shrink evade the normalisation", GAUSSIAN, "    EPS = 1e-8", "    EPS = 1e-5", TEST_INITIALISATION),
    _m("posteriors trained first never stop", LOOP, "return step < system.inference_first_steps and ", "return system.inference_first_steps > 0 and ", TEST_LOOP),
    _m("posteriors trained first without f_conv", HIERARCHICAL, '"posterior_mlp", "conversation_encoder",', '"posterior_mlp",', TEST_LOOP),
    _m("all but the posteriors trained first", LOOP, "if parameter not in inference:", "if parameter in inference:", TEST_LOOP),
    _m("variances begin as in the release", INITIALISATION, "module.var.bias.fill_(VARIANCE_BIAS)", "pass", TEST_INITIALISATION),
    _m("gates begin as in the release", INITIALISATION, "module.bias_hh[module.hidden_size : 2 * module.hidden_size] = 0.0", "pass", TEST_INITIALISATION),
    # --- readings, and what is built ---
    _m("depths of the release's priors swapped", READING, "vhred_prior_layers=2,\n        vhcr_prior_layers=1", "vhred_prior_layers=1,\n        vhcr_prior_layers=2", TEST_READINGS),
    _m("weights move the global generator", BUILD, "with torch.random.fork_rng(devices=[]):", "if True:", TEST_PACKING),
    # --- packing ---
    _m("EOS not counted", BATCH, "num_words = word_offsets[utterance + 1] - starts", "num_words = word_offsets[utterance + 1] - starts - 1", TEST_BATCH),
    _m("decoder's first input is EOS", BATCH, "np.where(step == 0, SOS, token_ids[before])", "np.where(step == 0, EOS, token_ids[before])", TEST_BATCH),
    _m("names not put in the order of length", BATCH, "index[order], sample[order]", "index, sample[order]", TEST_BATCH),
    _m("last row of the longest only", BATCH, "last_row = row_starts[num_turns - 1]", "last_row = row_starts[num_turns.max() - 1]", TEST_BATCH),
    _m("ids outside the vocabulary let through", TOKEN_FILES, "tokens.max() >= vocabulary_size", "tokens.max() > vocabulary_size", TEST_BATCH),
    _m("every epoch in one order", ORDER, "Philox(key=[seed, epoch])).permutation", "Philox(key=[seed, 0])).permutation", TEST_ORDER),
    _m("every epoch in one computed order", ORDER, "Philox(key=[seed, epoch]).random_raw", "Philox(key=[seed, 0]).random_raw", TEST_ORDER),
    # --- decoding ---
    _m("SOS may be said", DECODE, "NEVER = (PAD, SOS)", "NEVER = (PAD,)", TEST_DECODE),
    _m("UNK is said where it may not be", DECODE, "else (*NEVER, UNK)", "else NEVER", TEST_DECODE),
    _m("UNK is never said", DECODE, "NEVER = (PAD, SOS)", "NEVER = (PAD, SOS, 1)", TEST_DECODE),
    _m("one word too many in greedy search", DECODE, "last = step == params.max_words - 1", "last = step == params.max_words", TEST_DECODE),
    _m("last word of a beam is not EOS", DECODE, "        if step == params.max_words - 1:\n            value", "        if step == params.max_words:\n            value", TEST_DECODE),
    _m("what has ended is said on", DECODE, "going_on = (words != EOS).nonzero().squeeze(1)", "going_on = (words != PAD).nonzero().squeeze(1)", TEST_DECODE),
    _m("states of what goes on not kept in step", DECODE, "self.alive, words, state = self.alive[going_on], words[going_on], state[going_on]", "self.alive, words, state = self.alive[going_on], words[going_on], state[: len(going_on)]", TEST_DECODE),
    _m("log p of the masked distribution", DECODE, "        log_probs = _log_softmax(logits)\n        total[alive]", "        log_probs = word_distribution(logits, params).log()\n        total[alive]", TEST_DECODE),
    _m("temperature upside down", DECODE, "scores = logits / params.temperature", "scores = logits * params.temperature", TEST_DECODE),
    _m("one word too many in the nucleus", DECODE, "torch.where(before < params.top_p, ordered, 0.0)", "torch.where(before - ordered < params.top_p, ordered, 0.0)", TEST_DECODE),
    _m("the nucleus stops short", DECODE, "torch.where(before < params.top_p, ordered, 0.0)", "torch.where(before + ordered <= params.top_p, ordered, 0.0)", TEST_DECODE),
    _m("top-k is one too narrow", DECODE, "_, kept = top(scores, params.top_k)", "_, kept = top(scores, max(1, params.top_k - 1))", TEST_DECODE),
    _m("words of no probability drawn at an edge", DECODE, "torch.searchsorted(cumulative, at, right=True)", "torch.searchsorted(cumulative, at, right=False)", TEST_DECODE),
    _m("every position draws alike", DECODE, "position = torch.full_like(alive, step)", "position = torch.full_like(alive, 0)", TEST_DECODE),
    _m("draws keyed by place among what goes on", DECODE, "*(key[alive] for key in keys), position)", "*(key[: len(alive)] for key in keys), position)", TEST_DECODE),
    _m("finished hypotheses forgotten", DECODE, "if score > self._scores[sequence]:", "if True:", TEST_DECODE),
    _m("EOS not counted as a word of the score", DECODE, "score = log_prob / len(ids) ** self._length_penalty", "score = log_prob / max(1, len(ids) - 1) ** self._length_penalty", TEST_DECODE),
    _m("length penalty multiplied", DECODE, "score = log_prob / len(ids) ** self._length_penalty", "score = log_prob * len(ids) ** self._length_penalty", TEST_DECODE),
    _m("EOS outside the beam finishes", DECODE, "        ends[:, width:] = False\n", "", TEST_DECODE),
    _m("finished hypotheses narrow the beam", DECODE, "min(2 * width, live * vocabulary)", "min(width, live * vocabulary)", TEST_DECODE),
    _m("a beam is done at its first finished hypothesis", DECODE, "((num_finished < width) &", "((num_finished < 1) &", TEST_DECODE),
    _m("a beam is never done early", DECODE, "((num_finished < width) &", "((num_finished < 10 * width) &", TEST_DECODE),
    _m("states of another hypothesis", DECODE, "        state = state[hypothesis]\n", "        state = state[hypothesis - parent.flatten()]\n", TEST_DECODE),
    _m("words of another hypothesis", DECODE, "said.flatten(0, 1)[hypothesis]", "said.flatten(0, 1)[hypothesis - parent.flatten()]", TEST_DECODE),
    _m("log p of a hypothesis not carried on", DECODE, "top(scores.flatten(1), ", "top((scores - total.unsqueeze(-1)).flatten(1), ", TEST_DECODE),
    _m("ties as they come", DECODE, "    if len(torn):\n", "    if False:\n", TEST_DECODE),
    # --- responding ---
    _m("context of another conversation", RESPOND, "context=self.model.context_after(h_enc, batch, z_conv),", "context=self.model.context_after(h_enc, batch, z_conv).flip(0),", TEST_RESPOND),
    _m("turns of the answer numbered like the last of the context", RESPOND, "turn=batch.turn[batch.last_row] + 1,", "turn=batch.turn[batch.last_row],", TEST_RESPOND),
    _m("turn does not advance", RESPOND, "turn=state.turn + 1)", "turn=state.turn)", TEST_RESPOND),
    _m("generated turns not fed back", RESPOND, "            state = self.advance(state, turns[-1].token_ids)\n", "            state = replace(state, turn=state.turn + 1)\n", TEST_RESPOND),
    _m("z_conv missing when a turn is fed back", HIERARCHICAL, "joined(self.encode(said), z_conv)", "joined(self.encode(said), None if z_conv is None else 0 * z_conv)", TEST_RESPOND),
    _m("no bound for what rounding takes from the weights", LIKELIEST, "+ self._error * length_rounded)", "+ 0.0 * length_rounded)", TEST_LIKELIEST),
    _m("no bound for what rounding takes from the state", LIKELIEST, "self._norm * (off + rounding)", "self._norm * rounding", TEST_LIKELIEST),
    _m("the best bound taken for the best word", LIKELIEST, "return found if bool((found < none).all()) else None", "return guess", TEST_LIKELIEST),
    _m("of equals the last", LIKELIEST, "torch.full((sequences,), none).scatter_reduce_(0, row[is_best], word[is_best], \"amin\")", "torch.zeros(sequences, dtype=torch.int64).scatter_reduce_(0, row[is_best], word[is_best], \"amax\")", TEST_LIKELIEST),
    _m("old weights searched", LIKELIEST, "or self._search[0] != made_of", "", TEST_LIKELIEST),
    _m("forbidden words may win", LIKELIEST, "self._offset[list(never)] = -torch.inf", "pass", TEST_LIKELIEST),
    _m("z_utt and z_conv swapped at the decoder", RESPOND, "self.model.decoder_start(h_cxt, z_utt, state.z_conv)", "self.model.decoder_start(h_cxt, state.z_conv, z_utt)", TEST_RESPOND),
    _m("posterior and prior of z_conv swapped", RESPOND, 'from_prior=self.params.z_conv_from == "prior"', 'from_prior=self.params.z_conv_from != "prior"', TEST_RESPOND),
    _m("z_utt without its scale", RESPOND, "h_cxt, self.latent_scale * eps", "h_cxt, eps", TEST_RESPOND),
    _m("answers in the order of length", RESPOND, "back = torch.tensor(order, dtype=torch.int64).argsort()", "back = torch.arange(len(order))", TEST_RESPOND),
    _m("answers in the order of their order", RESPOND, "back = torch.tensor(order, dtype=torch.int64).argsort()", "back = torch.tensor(order, dtype=torch.int64)", TEST_RESPOND),
    _m("a context answered under another's name", RESPOND, "key = names[places]", "key = names[: len(places)]", TEST_RESPOND),
    _m("no bound on the words heard at once", RESPOND, "or read + words > MAX_CONTEXT_WORDS", "", TEST_RESPOND),
    _m("contexts of a request keyed by their place", ANSWER, "index=[0] * len(as_ids)", "index=None", TEST_ANSWER),
    _m("answers of the first context for all", ANSWER, "slice(i * params.num_samples, (i + 1) * params.num_samples)", "slice(0, params.num_samples)", TEST_ANSWER),
    _m("generation takes the mean of z_utt", HIERARCHICAL, "self.utterance_prior(h_cxt, z_conv).sample(eps) if", "self.utterance_prior(h_cxt, z_conv).mu if", TEST_RESPOND),
    _m("a release model begins all the same", RESPOND, "if not self.model.reading.scores_first_utterance:", "if False:", TEST_RESPOND),
    # --- control ---
    _m("samples share the noise of z_utt", RESPOND, "sample = torch.arange(samples).repeat(len(places))", "sample = torch.zeros(samples * len(places), dtype=torch.int64)", TEST_CONTROL),
    _m("points do not share their noise", CONTROL, "names = [0] * len(z_conv) if same_noise else range(len(z_conv))", "names = range(len(z_conv))", TEST_CONTROL),
    _m("z_conv of samples interleaved wrongly", RESPOND, "z_conv[places].repeat_interleave(samples, dim=0)", "z_conv[places].repeat(samples, 1)", TEST_CONTROL),
    _m("spherical without its normalisation", CONTROL, "torch.sin(at * angle) * v) / torch.sin(angle)", "torch.sin(at * angle) * v)", TEST_CONTROL),
    _m("interpolation runs backwards", CONTROL, "points = (1.0 - at) * a + at * b", "points = at * a + (1.0 - at) * b", TEST_CONTROL),
    # --- chat ---
    _m("another reply hears the one it replaces", CHAT, "        last = self.lines.pop()\n", "        last = self.lines[-1]\n", TEST_CHAT),
    _m("another reply is the same reply", CHAT, "        self.attempt += 1\n", "", TEST_CHAT),
    _m("the first turns of a long chat instead of the last", CHAT, "self.lines[-self.max_context_turns :]", "self.lines[: self.max_context_turns]", TEST_CHAT),
    _m("every turn of a long chat draws the same numbers", CHAT, "torch.full_like(state.turn, len(self.lines))", "state.turn", TEST_CHAT),
    # --- stopping a training ---
    _m("a validation hears no Cancel", LOOP, "        except Interrupted:\n            leave()\n", "        except ZeroDivisionError:\n            leave()\n", TEST_LOOP),
    _m("a row of training is taken for a validation's", LOOP, 'return (last.get("split"), last.get("step")) != ("validation", step)', 'return last.get("step") != step', TEST_LOOP),
    _m("a validation is made twice", LOOP, '!= ("validation", step)', '!= ("", step)', TEST_LOOP),
    _m("no checkpoint before an end that is asked for", LOOP, "        checkpoint()\n        workers.wait()", "        workers.wait()", TEST_LOOP),
    # --- data ---
    _m("the vocabulary counts all splits", CUT, 'whole.filter(pl.col("split") == "train")', "whole.filter(pl.lit(True))", TEST_DATASET),
    _m("an utterance's last word stands where EOS belongs", CUT, 'pl.col("words").list.head(params.max_words - 1)', 'pl.col("words").list.head(params.max_words)', TEST_DATASET),
    _m("a turn too many", CUT, 'pl.col("turn") < params.max_turns', 'pl.col("turn") <= params.max_turns', TEST_DATASET),
    _m("the shortest conversations left out", CUT, '("short_conversations", pl.col("turns") < params.min_turns)', '("short_conversations", pl.col("turns") <= params.min_turns)', TEST_DATASET),
    _m("utterances without an end", ENCODE, "tokens = np.full(ends[-1], EOS, dtype=np.int32)", "tokens = np.full(ends[-1], UNK, dtype=np.int32)", TEST_DATASET),
    _m("lines of nobody merged", SPOOL_FILE, "if speaker is None or len(lines) == 1:", "if len(lines) == 1:", TEST_DATASET),
    _m("a group in several splits", SPLITS_FILE, "        if units[index] != previous:\n", "        if True:\n", TEST_SPLITS),
    _m("splits in the order of the corpus", SPLITS_FILE, "(digests[units[index]], units[index], index)", "index", TEST_SPLITS),
    _m("splits cut where a float says", SPLITS_FILE, "Fraction(str(validation_fraction)), Fraction(str(test_fraction))", "Fraction(validation_fraction), Fraction(test_fraction)", TEST_SPLITS),
    _m("one split whatever the seed", SPLITS_FILE, 'key = seed.to_bytes(8, "big")\n    digests', "key = bytes(8)\n    digests", TEST_SPLITS),
    _m("equal counts in the order of their coming", VOCABULARY, "key=lambda item: (-item[1], item[0])", "key=lambda item: -item[1]", TEST_VOCABULARY),
    _m("a vocabulary four words too large", VOCABULARY, "ranked[: size - len(SPECIALS)]", "ranked[:size]", TEST_VOCABULARY),
    _m("rare words one count too high", VOCABULARY, "if item[1] >= min_count", "if item[1] > min_count", TEST_VOCABULARY),
    _m("words after the end", VOCABULARY, "            if id == EOS:\n                break\n", "            if id == EOS:\n                continue\n", TEST_VOCABULARY),
    _m("typographic apostrophes part words", TOKENISER, 'text.str.replace_all(APOSTROPHES, "\'")', 'text.str.replace_all(APOSTROPHES, " ")', TEST_TOKENISER),
    _m("shares of all splits for shares of one", LEAKAGE, "found / counts[split] if", "found / counts.total() if", TEST_DATASET),
    _m("vectors trained on the test split", EMBEDDINGS, 'table.filter(pc.equal(table["split"], self.split))["words"]', 'table["words"]', TEST_EMBEDDINGS),
    _m("coverage of types for that of tokens", EMBEDDINGS, "sum(counts[word] for word in covered) / tokens if", "len(covered) / types if", TEST_EMBEDDINGS),
    _m("responses compared with their contexts", RESPONSES, "real[evaluation.context_turns + turn]", "real[turn]", TEST_EVALUATE),
    _m("contexts that go on just long enough left out", RESPONSES, "test.num_turns >= evaluation.context_turns + length", "test.num_turns > evaluation.context_turns + length", TEST_EVALUATE),
    # --- evaluation: bounds ---
    _m("a perplexity that no float holds", LIKELIHOOD, "math.exp(nats_per_word) if nats_per_word < math.log(sys.float_info.max) else None", "math.exp(nats_per_word)", TEST_LIKELIHOOD),
    _m("the bound without the KL of z_conv", LIKELIHOOD, "self.reconstruction_error + self.kl_utt + self.kl_conv\n", "self.reconstruction_error + self.kl_utt\n", TEST_LIKELIHOOD, TEST_EVALUATE),
    _m("a mean of conversations' means per word", LIKELIHOOD, "float(self.nll.sum() / words)", "float((self.nll / np.maximum(self.num_words, 1)).mean())", TEST_LIKELIHOOD, TEST_EVALUATE),
    _m("scores in the order of the batches", LIKELIHOOD, "            rows = cpu_batch.index.numpy()\n", "            rows = np.sort(cpu_batch.index.numpy())\n", TEST_LIKELIHOOD),
    _m("a turn's bound without its KL", LIKELIHOOD, "= reconstruction + kl_utt\n            words_by_turn", "= reconstruction\n            words_by_turn", TEST_LIKELIHOOD),
    _m("turns that are not there have a length", LIKELIHOOD, "    of_length[:, 0] = 0.0  #", "    of_length[:, 0] *= 1.0  #", TEST_LIKELIHOOD),
    _m("words that are not scored have a position", LIKELIHOOD, "scored = model.scored_rows(batch)[batch.word_row].double()", "scored = torch.ones(len(batch.word_row), dtype=torch.float64)", TEST_LIKELIHOOD),
    _m("lengths overlap by one word", LIKELIHOOD, "here = slice(first, first + width)", "here = slice(first, first + width + 1)", TEST_LIKELIHOOD),
    _m("importance weights by the analytic KL", LIKELIHOOD, "divergence=sampled_kl", "divergence=lambda q, p, *rest: q.kl(p).sum(-1)", TEST_LIKELIHOOD),
    _m("every chunk of draws begins anew", LIKELIHOOD, "data.batch(group, count, first)", "data.batch(group, count, 0)", TEST_LIKELIHOOD),
    _m("the mean of log weights for the log of their mean", LIKELIHOOD, "np.squeeze(top, axis) + np.log(np.exp(values - top).mean(axis=axis))", "values.mean(axis=axis) + 0 * top.sum()", TEST_LIKELIHOOD),
    _m("the log of a sum of weights", LIKELIHOOD, "np.log(np.exp(values - top).mean(axis=axis))", "np.log(np.exp(values - top).sum(axis=axis))", TEST_LIKELIHOOD),
    _m("weights overflow", LIKELIHOOD, "    top = values.max(axis=axis, keepdims=True)\n", "    top = 0 * values.max(axis=axis, keepdims=True)\n", TEST_LIKELIHOOD),
    _m("every draw of z_utt has a z_conv of its own", HIERARCHICAL, "batch.sample // batch.utterance_draws", "batch.sample", TEST_LIKELIHOOD),
    _m("draws that share z_conv taken as if they did not", LIKELIHOOD, "within = min(weights.utterance_draws, num_samples)", "within = 1", TEST_LIKELIHOOD),
    _m("a weight of z_conv for every draw of z_utt", LIKELIHOOD, "[:, first][:, ::within]", "[:, first][:, :outer]", TEST_LIKELIHOOD),
    # --- evaluation: uncertainty ---
    _m("the deviation of a population", STATISTICS, "/ (len(values) - 1)", "/ len(values)", TEST_STATISTICS),
    _m("both sides of a difference draw the same seeds", STATISTICS, "other._over_seeds(1)", "other._over_seeds(0)", TEST_STATISTICS),
    _m("seeds are not drawn", STATISTICS, "chosen = rng.integers(self.replicates.shape[1], size=self.replicates.shape)", "chosen = np.tile(np.arange(self.replicates.shape[1]), (len(self.replicates), 1))", TEST_STATISTICS),
    _m("conversations are not paired", STATISTICS, "rng = np.random.default_rng([seed, 0])", "rng = np.random.default_rng()", TEST_STATISTICS),
    _m("conversations drawn without replacement", STATISTICS, "drawn = rng.integers(num_conversations, size=num_conversations)", "drawn = rng.permutation(num_conversations)", TEST_STATISTICS),
    _m("intervals of 90 %", STATISTICS, "[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]", TEST_STATISTICS),
    _m("words resampled apart from nats", STATISTICS, "sums[:, : num_seeds * num_parts] / sums[:, num_seeds * num_parts :]", "sums[:, : num_seeds * num_parts] / bottom.sum(axis=-1).reshape(1, -1)", TEST_STATISTICS),
    _m("different conversations paired", STATISTICS, "        if self.num_conversations != other.num_conversations:\n", "        if False:\n", TEST_STATISTICS),
    # --- evaluation: embedding and text metrics ---
    _m("average of unit vectors", EMBEDDING, "average = _cosine(left.sum(axis=1), right.sum(axis=1))", "average = _cosine(_unit(left).sum(axis=1), _unit(right).sum(axis=1))", TEST_EMBEDDING),
    _m("extrema of the largest alone", EMBEDDING, "np.where(-low > high, low, high)", "high", TEST_EMBEDDING),
    _m("a tie of extrema is negative", EMBEDDING, "np.where(-low > high, low, high)", "np.where(-low >= high, low, high)", TEST_EMBEDDING),
    _m("greedy from the response", EMBEDDING, "forward = _greedy(similarity, left_mask, right_mask)", "forward = _greedy(similarity.transpose(0, 2, 1), right_mask, left_mask)", TEST_EMBEDDING),
    _m("greedy sees padding", EMBEDDING, "best = np.where(columns[:, None, :], similarity, -np.inf).max(axis=2)", "best = similarity.max(axis=2)", TEST_EMBEDDING),
    _m("serban's greedy in one direction", EMBEDDING, "(_greedy(similarity, left_mask, right_mask) + backward) / 2", "_greedy(similarity, left_mask, right_mask) + 0 * backward", TEST_EMBEDDING),
    _m("serban's greedy below zero", EMBEDDING, "    similarity = np.maximum(similarity, 0.0)", "    similarity = np.maximum(similarity, -1.0)", TEST_EMBEDDING),
    _m("empty responses score zero in Table 3", EMBEDDING, "scores[:, no_reference | no_response] = np.nan", "scores[:, no_reference | no_response] = 0.0", TEST_EMBEDDING),
    _m("special words compared", EMBEDDING, "if word in index and word not in SPECIAL_WORDS]", "if word in index]", TEST_EMBEDDING),
    _m("the mean over pairs instead of turns", EMBEDDING, "float(np.mean(defined)) if defined", "float(np.nanmean(values)) if defined", TEST_EMBEDDING),
    _m("the last of two vectors of a word", WORD_VECTORS, "if word not in found and word not in SPECIAL_WORDS:", "if word not in SPECIAL_WORDS:", TEST_WORD_VECTORS),
    _m("vectors of special words", WORD_VECTORS, "if word not in found and word not in SPECIAL_WORDS:", "if word not in found:", TEST_WORD_VECTORS),
    _m("a line break in front of a word is part of it", WORD_VECTORS, '        while buffer[position : position + 1] == b"\\n":', "        while False:", TEST_WORD_VECTORS),
    _m("diversity counts a response beside itself", EMBEDDING, "np.square(unit.sum(axis=0)).sum() - np.square(unit).sum()", "np.square(unit.sum(axis=0)).sum()", TEST_EMBEDDING),
    _m("distinct-n as a mean over responses", TEXT_METRICS, "    return len(counts) / total if total else None\n", "    return sum(len(set(_ngrams(r, order))) for r in responses) / total if total else None\n", TEST_TEXT_METRICS),
    _m("n-grams across responses", TEXT_METRICS, "        counts.update(_ngrams(words, order))", "        counts.update(_ngrams([w for r in responses for w in r] if words is responses[0] else (), order))", TEST_TEXT_METRICS),
    _m("entropy in bits", TEXT_METRICS, "math.log(count / total)", "math.log2(count / total)", TEST_TEXT_METRICS),
    _m("lengths the other way round", TEXT_METRICS, "return sum(map(len, responses)) / words if words else None", "return words / sum(map(len, responses)) if words else None", TEST_TEXT_METRICS),
    _m("BLEU tokenises again", TEXT_METRICS, 'BLEU(tokenize="none", force=True)', "BLEU(force=True)", TEST_TEXT_METRICS),
    # --- diagnostics ---
    _m("a draw with the variance as deviation", PROBES, "mu + np.sqrt(var) * np.random", "mu + var * np.random", TEST_LATENTS),
    _m("information with the mean of log densities", LATENTS, "top + np.log(np.exp(log_q - top[:, None]).mean(axis=1))", "log_q.mean(axis=1)", TEST_LATENTS),
    _m("information beside the wrong posterior", LATENTS, "np.arange(first, first + len(chunk))]", "np.arange(len(chunk))]", TEST_LATENTS),
    _m("densities without their normalisation", LATENTS, "(np.log(2.0 * np.pi) + np.log(var)).sum(1)", "np.log(2.0 * np.pi) * mu.shape[1]", TEST_LATENTS),
    _m("nothing is shuffled", LATENTS, 'return sample.roll(1, dims=0) if source == "shuffled" else sample', "return sample", TEST_LATENTS),
    _m("the prior's mean for a draw of it", LATENTS, "return prior.sample(eps)", "return prior.mu.expand_as(eps)", TEST_LATENTS),
    _m("levels replaced the other way round", LATENTS, 'ways[f"{source}_conv"] = (source, "posterior")', 'ways[f"{source}_conv"] = ("posterior", source)', TEST_LATENTS),
    _m("latents of utterances that nothing has trained", LATENTS, "scored = model.scored_rows(batch).bool()", "scored = torch.ones(batch.num_rows, dtype=torch.bool)", TEST_LATENTS),
    _m("diagnostics in the order of the batches", LATENTS, "by_row = np.lexsort((where[1], where[0]))", "by_row = np.arange(where.shape[1])", TEST_LATENTS),
    _m("the variance ratio upside down", MOMENTS, "(self.mean_of_var / self.variance_of_mu.clamp_min(SMALLEST_VARIANCE)).mean()", "(self.variance_of_mu / self.mean_of_var.clamp_min(SMALLEST_VARIANCE)).mean()", TEST_MOMENTS),
    _m("the ratio of means for the mean of ratios", MOMENTS, "(self.mean_of_var / self.variance_of_mu.clamp_min(SMALLEST_VARIANCE)).mean()", "self.mean_of_var.mean() / self.variance_of_mu.clamp_min(SMALLEST_VARIANCE).mean()", TEST_MOMENTS),
    _m("units are active by their deviation", MOMENTS, "(self.variance_of_mu > ACTIVE_VARIANCE)", "(self.variance_of_mu.sqrt() > ACTIVE_VARIANCE)", TEST_MOMENTS, TEST_LATENTS),
    _m("moments of utterances that are not scored", MOMENTS, "weight = model.scored_rows(batch).double().unsqueeze(1)", "pass", TEST_MOMENTS),
    _m("a second moment for a variance", MOMENTS, "(square / counts - mean.square())", "(square / counts)", TEST_MOMENTS),
    _m("probes scored on what they were fitted on", PROBES, 'probe(*sides["validation"], *sides["test"])', 'probe(*sides["test"], *sides["test"])', TEST_EVALUATE),
    _m("chance from equal labels", PROBES, "float(counts.max() / counts.sum())", "1.0 / len(counts)", TEST_LATENTS, TEST_EVALUATE),
    _m("z_conv is given the labels of other conversations", PROBES, 'found["z_conv"] = (everyone,', 'found["z_conv"] = (keys,', TEST_EVALUATE),
    # --- claims ---
    _m("a claim by the estimate alone", CLAIMS, "side = sign * (1 if difference.low > 0 else -1 if difference.high < 0 else 0)", "side = sign * (1 if difference.estimate > 0 else -1)", TEST_CLAIMS),
    _m("one half of a claim is enough", CLAIMS, 'for worst in ("not supported", "undecided", "not run"):\n        if worst in verdicts:', 'for worst in ("not supported", "undecided", "not run"):\n        if {worst} == set(verdicts):', TEST_CLAIMS),
    _m("curves of training for those of validation", CLAIMS, 'run.curves.points("kl_per_word", "validation")', 'run.curves.points("kl_per_word", "train")', TEST_CLAIMS),
    _m("a KL has vanished before its weight is 1", CLAIMS, "FEWEST_VALIDATIONS and weight is None", "FEWEST_VALIDATIONS", TEST_CLAIMS),
    _m("numbers of a run that ended early decide", CLAIMS, "    if not weights:\n        return finding", "    if True:\n        return finding", TEST_CLAIMS),
    _m("priors of a run that ended early are judged", CLAIMS, "_together([found.verdict, *verdicts])", "_together([narrow, *verdicts])", TEST_CLAIMS),
    _m("an exact NLL waits for a KL weight", CLAIMS, "early = run.is_bound and weights", "early = weights", TEST_CLAIMS),
    _m("a weight of 0.5 is never the last", CLAIMS, 'run.settings.get("final_kl_weight", 1.0)', "1.0", TEST_CLAIMS),
    _m("a falling KL is stable", CLAIMS, "change is not None and change > -FALLING", "change is not None", TEST_CLAIMS),
    _m("a KL counts whatever it tells", USE, "self.information >= UNINFORMED", "True", TEST_CLAIMS),
    _m("a KL counts though no decoder hears it", USE, "self.cost >= UNHEARD", "True", TEST_CLAIMS),
    _m("what was not measured is used", USE, "None if None in enough else True", "True", TEST_CLAIMS),
    _m("a vanished KL waits for its diagnostics", USE, '(run.value(f"kl_{level}_per_word") or 0.0) >= VANISHED', "True", TEST_CLAIMS),
    _m("a KL that does not count is compared", EVIDENCE, "for level in unused(run):", "for level in ():", TEST_CLAIMS),
    _m("a curve with a KL that does not count", CLAIMS, "without=unused(run)", "without=()", TEST_CLAIMS),
    _m("bounds of other words compared", EVIDENCE, "return self._num_words(system) == self._num_words(other)", "return True", TEST_CLAIMS, TEST_TABLES),
    _m("the highest NLL leads", EVIDENCE, "sign = 1 if key in LOWER_IS_BETTER else -1", "sign = -1", TEST_CLAIMS, TEST_TABLES),
    _m("a leader that cannot be told apart stands alone", EVIDENCE, "if not difference.excludes_zero:", "if False:", TEST_CLAIMS, TEST_TABLES),
    _m("seeds that lack a number are left out", EVIDENCE, "if not known or len(known) < len(each) or", "if not known or", TEST_CLAIMS, TEST_TABLES),
    # --- human evaluation ---
    _m("left and right mixed up", STUDY, 'return "win" if (choice == "left") == system_is_left else "loss"', 'return "win" if (choice == "right") == system_is_left else "loss"', TEST_STUDY),
    _m("the system always on the left", STUDY, "        return bool(system_is_left)\n", "        return True\n", TEST_STUDY),
    _m("sides by the number of the pair", STUDY, '_digest(secret, "export side", ids[number])', "str(number)", TEST_STUDY),
    _m("the shown side is not the stored one", STUDY, "left, right = pair if system_is_left else pair[::-1]", "left, right = pair", TEST_STUDY),
    _m("one side for all raters of a pair", STUDY, "(system_is_left + (SELECT count(*) FROM assignments a WHERE a.item = i.item)) % 2", "system_is_left", TEST_STUDY),
    _m("a second vote replaces the first", STUDY, "                if cast[1] != revision:\n", "                if False:\n", TEST_STUDY),
    _m("a vote more than wanted", STUDY, 'if taken[item] >= self.settings.votes_per_item:\n                return Answer("full"', 'if taken[item] > self.settings.votes_per_item:\n                return Answer("full"', TEST_STUDY),
    _m("reservations forgotten", STUDY, "AND a.reserved_until > :now", "AND 0", TEST_STUDY),
    _m("reservations never end", STUDY, "AND a.reserved_until > :now", "", TEST_STUDY),
    _m("transactions do not exclude each other", STUDY, '"BEGIN IMMEDIATE" if write else "BEGIN"', '"BEGIN"', TEST_STUDY),
    _m("items given one after the other", STUDY, "key=lambda each: (taken[each], ", "key=lambda each: (0, ", TEST_STUDY),
    _m("ids from the number alone", STUDY, '_digest(secret, "item", str(number))', '_digest(b"", "item", str(number))', TEST_STUDY),
    _m("an import stored up to its mistake", STUDY, "                    connection.rollback()\n", '                    connection.execute("COMMIT")\n', TEST_STUDY),
    _m("pairs that agree are kept", PAIRS, "elif include_identical or not pair.identical:", "else:", TEST_PAIRS),
    _m("other protocols compared", PAIRS, "        if mine.get(key) != theirs.get(key):", "        if False:", TEST_PAIRS),
    _m("other data compared", PAIRS, "    if hashes[0] != hashes[1]:", "    if False:", TEST_PAIRS),
    _m("votes taken from other sites", LOOPBACK, 'if origin != f"http://{host}" and (pages_only or origin is not None):', "if False:", TEST_SERVER),
    _m("any host name answered", LOOPBACK, 'if host.rsplit(":", 1)[0] not in NAMES:', "if False:", TEST_SERVER),
    _m("votes drawn one by one", PREFERENCE, "        wanted.sum(axis=1), all_votes.sum(axis=1), num", "        np.repeat([1, 0], [count, total - count]), np.ones(total), num", TEST_PREFERENCE),
    _m("raters not drawn", PREFERENCE, "columns = np.bincount(rng.integers(num_raters, size=num_raters), minlength=num_raters)", "columns = np.ones(num_raters)", TEST_PREFERENCE),
    _m("certainty where nothing varies", PREFERENCE, "    if count in {0, total}:", "    if False:", TEST_PREFERENCE),
    _m("losses counted as wins in the difference", PREFERENCE, 'kinds[OUTCOMES.index("win")] - kinds[OUTCOMES.index("loss")]', 'kinds[OUTCOMES.index("win")] + kinds[OUTCOMES.index("loss")]', TEST_PREFERENCE),
    _m("texts unescaped in a layout", MTURK, 'return html.escape(text).replace("$", "&#36;")', "return text", TEST_PLATFORMS),
    _m("rejected work counts", MTURK, '            if status == "Rejected":\n                continue\n', "", TEST_PLATFORMS),
]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of one mistake."""

    name: str
    file: str
    caught: bool
    by: str  # the test that failed first
    seconds: float


def problem(mutation: Mutation) -> str | None:
    """Why a mistake cannot be made, or None."""
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        return f"{mutation.name}: its old text stands {count} times in {mutation.file}, not once"
    try:  # a mistake that cannot be read would be caught by anything
        compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    except SyntaxError as error:
        return f"{mutation.name}: no Python any more: {error}"
    missing = [test for test in mutation.tests if not (ROOT / test).exists()]
    if missing or not mutation.tests:
        return f"{mutation.name}: no such test: {', '.join(missing) or '(none named)'}"
    return None


def pytest_in(folder: Path, tests: tuple[str, ...]) -> tuple[int, str, str]:
    """Run ``tests`` in a copy; exit status, the first test that failed, and all that was said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return STALLED, f"(no verdict in {LIMIT} s)", f"no verdict in {LIMIT} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    first = failed[0].split(" ")[1] if failed else ""
    return done.returncode, first, done.stdout + done.stderr


def copy_to(folder: Path) -> None:
    """What the tests need of the project."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def attempt(mutation: Mutation) -> Result:
    """Make one mistake in a copy of its own and run its tests there."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name)
        copy_to(folder)
        path = folder / mutation.file
        path.write_text(
            path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8"
        )
        status, first, output = pytest_in(folder, mutation.tests)
    if status not in (0, 1, 2, STALLED):  # passed, failed, could not even be collected
        raise RuntimeError(f"{mutation.name}: pytest ended with status {status}:\n{output}")
    return Result(mutation.name, mutation.file, status in (1, 2), first, round(time.monotonic() - began, 1))


def healthy(chosen: list[Mutation]) -> str | None:
    """The tests must pass without any mistake, or being caught would mean nothing."""
    tests = tuple(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy_to(Path(name))
        status, _, output = pytest_in(Path(name), tests)
    return None if status == 0 else output


def main(argv: list[str] | None = None) -> int:
    """Make every mistake, print a table, write results/mutations.json."""
    parser = argparse.ArgumentParser(
        description="Put plausible mistakes into copies of the package; does a test fail?"
    )
    parser.add_argument("only", nargs="*", help="parts of names or files; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes at a time (default: 1)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "mutations.json")
    arguments = parser.parse_args(argv)
    chosen = [
        m for m in MUTATIONS
        if not arguments.only or any(part in m.name or part in m.file for part in arguments.only)
    ]  # fmt: skip
    problems = [found for found in map(problem, chosen) if found]
    names = [m.name for m in MUTATIONS]
    problems += [f"{name}: stands twice in the list" for name in {n for n in names if names.count(n) > 1}]
    if not problems and (sick := healthy(chosen)):
        problems = [f"the tests fail without any mistake:\n{sick}"]
    if problems or not chosen:
        print("\n".join(problems) or "no such mutation", file=sys.stderr)
        return 2

    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(attempt, chosen):
            results.append(result)
            verdict = "caught  " if result.caught else "SURVIVED"
            print(
                f"{verdict} {result.seconds:6.1f} s  {result.name} ({result.file})  {result.by}", flush=True
            )
    survived = [result for result in results if not result.caught]
    print(f"{len(results) - len(survived)} of {len(results)} caught")
    if not arguments.only:
        # No durations: equal results are equal bytes.
        rows = [{key: value for key, value in asdict(r).items() if key != "seconds"} for r in results]
        summary = {"format": 1, "mutations": len(rows), "caught": len(rows) - len(survived), "results": rows}
        write_json(arguments.output, summary, by_rows=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
