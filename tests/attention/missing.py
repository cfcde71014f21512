"""Ways in which a compiled kernel can be missing, for the tests of what happens then."""

import platform

import torch

MISSING = ("system", "processor", "compiler", "broken compiler", "switched off")


def take_away(missing, monkeypatch, folder):
    """Compile into an empty folder, on a machine where something is missing."""
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(folder))
    if missing == "system":
        monkeypatch.setattr(platform, "system", lambda: "Darwin")
    elif missing == "processor":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    elif missing == "compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif missing == "broken compiler":
        monkeypatch.setenv("CC", "false")
    else:
        monkeypatch.setenv("LMOPS_LAB_KERNEL", "off")
