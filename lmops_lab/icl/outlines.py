"""A model without its weights: enough to tokenise, name and check an experiment, in no time and no memory."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lmops_lab import machine, origins
from lmops_lab.attention.probe import check_config
from lmops_lab.models import LanguageModel


def outline_model(name: str, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """The model that `load_model` would give, with the same fingerprint, but with weights that hold no numbers.

    It plans experiments where the weights are not wanted: a dry run, or the process that only hands out the work.

    Raises:
        ValueError: an unknown dtype or device, or an architecture that structured attention does not support.
        FileNotFoundError: no such model.
    """
    number_format = machine.choose_dtype(dtype, machine.choose_device(device))
    source = origins.locate(name)
    options = {"revision": source.hub_revision} if source.hub_revision else {}
    with origins.explained(name):
        config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(str(source.path), trust_remote_code=False, **options)
    check_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=number_format.dtype)
    return LanguageModel(name, model.eval(), tokenizer, source.revision or source.hub_revision, number_format)


def dtype_name(lm: LanguageModel) -> str:
    """The dtype as `load_model` takes it, so that another machine does not choose a different one."""
    return str(lm.number_format.dtype).removeprefix("torch.")
