"""How a rewriter's completions are searched for and scored: beams, diverse beams, samples.

transformers' own beam search is used as it is. Diverse (group) beam search was removed from transformers, and its
sampling draws from one global stream; both are short loops here that enter through `generate(custom_generate=...)`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig


@dataclass(frozen=True)
class Decoding:
    """How completions are searched for. The defaults are Promptist's published constants.

    Attributes:
        method: "beam", "sampling" (one seeded stream a candidate) or "diverse" (as many groups as beams / width).
        beams: beams kept ("diverse": over all groups).
        max_new_tokens, min_new_tokens: bounds on the completion, its end token included (tokens).
        length_penalty: beams are compared by log-probability / length ** length_penalty. Log-probabilities are
            negative, so a negative penalty favours short completions.
        groups: groups of diverse beam search; must divide `beams`.
        diversity_penalty: nats taken from a token for every earlier group that chose it at the same step.
        temperature, top_p: of sampling.
    """

    method: str = "beam"
    beams: int = 8
    max_new_tokens: int = 75
    min_new_tokens: int = 0
    length_penalty: float = -1.0
    groups: int = 1
    diversity_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that no search can follow."""
        if self.method not in ("beam", "sampling", "diverse"):
            raise ValueError(f"decoding method is {self.method!r}; choose 'beam', 'sampling' or 'diverse'")
        for name in ("beams", "max_new_tokens", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(f"min_new_tokens is {self.min_new_tokens}; it must be 0 to {self.max_new_tokens}")
        if self.method == "diverse" and self.beams % self.groups:
            raise ValueError(f"{self.beams} beams cannot be split into {self.groups} equal groups")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be > 0 and top_p {self.top_p} in (0, 1]")

    def changed(self, **changes: Any) -> "Decoding":
        """The same decoding with other settings."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Hypothesis:
    """One completion.

    Attributes:
        tokens: its token ids, without the end token.
        finished: whether the model ended it; otherwise `max_new_tokens` did.
        log_probability: of all its tokens, the end token included where there is one (nats).
    """

    tokens: tuple[int, ...]
    finished: bool
    log_probability: float

    @property
    def generated(self) -> int:
        """Generated tokens, the end token included."""
        return len(self.tokens) + self.finished


def beam_score(log_probability: float, generated: int, length_penalty: float) -> float:
    """A beam's score since transformers 4.36: the length counts generated tokens only, the end token included."""
    return float(log_probability / max(1, generated) ** length_penalty)


def legacy_beam_score(log_probability: float, prompt: int, completion: int, length_penalty: float) -> float:
    """A beam's score before transformers 4.36: the length counts prompt and completion, without the end token.

    Promptist was tuned and published with this one. A batch then also counted its padding; rows are meant one by one
    here, as the published demo ran them.
    """
    return float(log_probability / (prompt + completion) ** length_penalty)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    candidates: int,
    end: int,
    pad: int,
    seed: int = 0,
) -> list[list[Hypothesis]]:
    """Completions of a batch of prompts: [prompts][candidates], in the order the search returns them.

    Args:
        prompts: token ids; rows are padded on the left.
        candidates: completions a prompt; at most the number of beams unless sampled.
        end, pad: token ids.
        seed: of sampling; a row's draws depend on its prompt and this seed, not on its batch.

    Raises:
        ValueError: more candidates than beams, or a prompt without tokens.
    """
    if candidates < 1 or (decoding.method != "sampling" and candidates > decoding.beams):
        raise ValueError(f"{candidates} candidates asked for, but the search has {decoding.beams} beams; raise beams=")
    if not prompts or not all(prompts):
        raise ValueError("a prompt has no tokens")
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens,
        do_sample=decoding.method == "sampling",
        temperature=decoding.temperature if decoding.method == "sampling" else None,
        top_p=decoding.top_p if decoding.method == "sampling" else None,
        top_k=0 if decoding.method == "sampling" else None,
        num_beams=1 if decoding.method == "sampling" else decoding.beams,
        num_return_sequences=decoding.beams if decoding.method == "diverse" else candidates,
        length_penalty=None if decoding.method == "sampling" else decoding.length_penalty,
        early_stopping=None if decoding.method == "sampling" else False,
        repetition_penalty=1.0,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=end,
        use_cache=True,
    )
    own: Any = None
    if decoding.method == "diverse":
        own = partial(_diverse_beams, groups=decoding.groups, penalty=decoding.diversity_penalty)
    elif decoding.method == "sampling":
        streams = [_stream(row, candidate, seed) for row in prompts for candidate in range(candidates)]
        own = partial(_samples, streams=streams)
    out = model.generate(ids, attention_mask=mask, generation_config=config, custom_generate=own)
    completions = [_completion(row, end) for row in out[:, width:].tolist()]
    each = len(completions) // len(prompts)
    return [
        _with_log_probabilities(model, prompt, completions[i * each : i * each + candidates], end)
        for i, prompt in enumerate(prompts)
    ]


def completion_log_probabilities(model: Any, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Tensor:
    """Log-probability of every completion of one prompt: [completions], nats, summed over its tokens."""
    longest = max(1, *map(len, completions))
    rows = [[*prompt, *completion, *[0] * (longest - len(completion))] for completion in completions]
    # Padding stands to the right of everything that is read, where causal attention cannot see it.
    logits = model(torch.tensor(rows, device=model.device), use_cache=False, logits_to_keep=longest + 1).logits
    targets = torch.tensor(rows, device=model.device)[:, len(prompt) :]  # [C, longest]
    picked = logits[:, :-1].float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # [C, longest]
    lengths = torch.tensor([len(completion) for completion in completions], device=model.device)
    return (picked * (torch.arange(longest, device=model.device) < lengths[:, None])).sum(1)


def _completion(tokens: list[int], end: int) -> tuple[tuple[int, ...], bool]:
    if end in tokens:
        return tuple(tokens[: tokens.index(end)]), True
    return tuple(tokens), False


def _with_log_probabilities(
    model: Any, prompt: Sequence[int], completions: list[tuple[tuple[int, ...], bool]], end: int
) -> list[Hypothesis]:
    rows = [[*tokens, end] if finished else list(tokens) for tokens, finished in completions]
    sums = completion_log_probabilities(model, prompt, rows).tolist()
    return [Hypothesis(tokens, finished, total) for (tokens, finished), total in zip(completions, sums, strict=True)]


def _stream(prompt: Sequence[int], candidate: int, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{candidate}:{list(prompt)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _next_logits(model: Any, ids: Tensor, config: Any, state: dict[str, Any], *, first: bool) -> Tensor:
    """Logits after the last token of every row [rows, V]; `state` (cache, mask) moves on by one token."""
    if first:
        outputs = model._prefill(ids, config, state)
    else:
        step = 1 if state["use_cache"] else None
        inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=step, **state)
        outputs = model(**inputs, return_dict=True)
    state.update(model._update_model_kwargs_for_generation(outputs, state, is_encoder_decoder=False))
    return outputs.logits[:, -1].float()


def _samples(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,  # noqa: ARG001 - transformers passes it; the loop knows its end
    generation_config: Any,
    *,
    streams: list[torch.Generator],
    **state: Any,
) -> Tensor:
    """Ancestral sampling with one generator a row, so that a row's draws do not depend on its batch."""
    end, ids = generation_config.eos_token_id, input_ids
    done = torch.zeros(len(ids), dtype=torch.bool)
    for step in range(generation_config.max_length - input_ids.shape[1]):
        logits = logits_processor(ids, _next_logits(model, ids, generation_config, state, first=step == 0))
        probabilities = logits.softmax(-1).cpu()
        token = torch.stack(
            [torch.multinomial(row, 1, generator=stream) for row, stream in zip(probabilities, streams, strict=True)]
        )  # [rows, 1]
        token[done] = generation_config.pad_token_id
        ids = torch.cat([ids, token.to(ids.device)], 1)
        done |= token[:, 0] == end
        if done.all():
            break
    return ids


def _diverse_beams(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,  # noqa: ARG001 - transformers passes it; the loop knows its end
    generation_config: Any,
    *,
    groups: int,
    penalty: float,
    **state: Any,
) -> Tensor:
    """Diverse beam search (Vijayakumar et al. 2016) with Hamming diversity.

    Groups choose one after another at every step; a token loses `penalty` nats for each time an earlier group of the
    same row took it. A group stops once it has as many finished completions as beams.
    """
    end, pad, beams = generation_config.eos_token_id, generation_config.pad_token_id, generation_config.num_beams
    width, rows, start = beams // groups, len(input_ids) // beams, input_ids.shape[1]
    ids = input_ids
    finished: list[list[list[tuple[float, list[int]]]]] = [[[] for _ in range(groups)] for _ in range(rows)]
    sums = torch.full((rows, groups, width), -1e9, device=ids.device)
    sums[:, :, 0] = 0.0  # all beams of a group begin alike: only one may be continued
    steps = generation_config.max_length - start
    for step in range(steps):
        logits = _next_logits(model, ids, generation_config, state, first=step == 0)
        logs = logits_processor(ids, logits.log_softmax(-1)).view(rows, groups, width, -1)
        vocabulary = logs.shape[-1]
        taken = torch.zeros(rows, vocabulary, device=ids.device)
        parents = torch.arange(rows * beams, device=ids.device).view(rows, groups, width)
        tokens = torch.full((rows, groups, width), pad, device=ids.device)
        for group in range(groups):
            scores = logs[:, group] - penalty * taken[:, None] + sums[:, group, :, None]  # [R, W, V]
            best, where = scores.view(rows, -1).topk(2 * width)  # [R, 2W]
            for row in range(rows):
                done = finished[row][group]
                if len(done) >= width:
                    continue
                kept = 0
                for rank in range(2 * width):
                    beam, token = divmod(int(where[row, rank]), vocabulary)
                    if token == end:
                        if rank < width:
                            tail = ids[(row * groups + group) * width + beam, start:].tolist()
                            done.append((float(best[row, rank]) / (step + 1) ** generation_config.length_penalty, tail))
                    elif kept < width:
                        parents[row, group, kept] = (row * groups + group) * width + beam
                        tokens[row, group, kept] = token
                        sums[row, group, kept] = best[row, rank]
                        taken[row, token] += 1
                        kept += 1
        flat = parents.view(-1)
        ids = torch.cat([ids[flat], tokens.view(-1, 1)], 1)
        state["past_key_values"].reorder_cache(flat)
        if all(len(done) >= width for row in finished for done in row):
            break
    return _finished_rows(ids, start, steps, sums, finished, end, pad, generation_config.length_penalty)


def _finished_rows(
    ids: Tensor,
    start: int,
    steps: int,
    sums: Tensor,
    finished: list[list[list[tuple[float, list[int]]]]],
    end: int,
    pad: int,
    length_penalty: float,
) -> Tensor:
    """The best completions of every group as rows [rows * beams, start + steps + 1], padded on the right."""
    rows, groups, width = sums.shape
    out = torch.full((len(ids), start + steps + 1), pad)
    for row in range(rows):
        for group in range(groups):
            first = (row * groups + group) * width
            found = [(score, [*tail, end]) for score, tail in finished[row][group]]
            if len(found) < width:
                length = ids.shape[1] - start
                for beam in range(width):
                    score = float(sums[row, group, beam]) / length**length_penalty
                    found.append((score, ids[first + beam, start:].tolist()))
            found.sort(key=lambda item: -item[0])
            for beam, (_, tail) in enumerate(found[:width]):
                out[first + beam, :start] = ids[first + beam, :start].cpu()
                out[first + beam, start : start + len(tail)] = torch.tensor(tail)
    return out.to(ids.device)
