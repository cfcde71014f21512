"""Forward passes through a hooked model: hidden states of chosen tokens, and logits only where they are needed."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmops_lab.attention.hook import AttentionCall, active

# Positions whose logits are computed at once: 256 x 49,152 float32 is 50 MB.
_LOGIT_ROWS = 256


@torch.inference_mode()
def hidden_at(model: PreTrainedModel, ids: Tensor, positions: Tensor, call: AttentionCall) -> Tensor:
    """Last hidden states [B, T, width] of right-padded rows under `call`.

    Padding sits at the right, after everything a real token may see, so it needs no mask. Positions are explicit.
    """
    with active(call):
        output = model.get_decoder()(
            input_ids=ids.to(model.device),
            position_ids=positions.to(model.device),
            attention_mask=torch.ones_like(ids, device=model.device),
            use_cache=False,
        )
    return output.last_hidden_state


@torch.inference_mode()
def logits_at(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Next-token logits [rows, V] of hidden states [rows, width]."""
    return model.get_output_embeddings()(states)


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, states: Tensor, tokens: Tensor) -> Tensor:
    """Next-token log-probabilities (nats, float32) of chosen tokens [n] after each hidden state: [rows, n].

    Normalised over the whole vocabulary, a block of rows at a time so that the logits never fill the memory.
    """
    blocks = []
    for block in states.split(_LOGIT_ROWS):
        logits = logits_at(model, block).float()  # [rows, V]
        blocks.append(logits[:, tokens] - torch.logsumexp(logits, dim=-1, keepdim=True))
    return torch.cat(blocks)
