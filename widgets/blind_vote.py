"""Blind votes: two results side by side, nobody knows whose, until the last pair is judged."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets as tr
from PIL import Image

from lmops_lab.files import atomic_file, atomic_folder, write_text
from widgets import html
from widgets.pictures import as_png, image_hash
from widgets.vote_file import VoteFile
from widgets.votes import (
    CHOICES,
    Choice,
    Pair,
    Results,
    Vote,
    describe,
    draw_pairs,
    results,
    schedule_hash,
    win_rates,
    winner,
)

Item = Image.Image | str

_SHOWN_EDGE = 768  # pixels; a pair of pictures then stays well under the trait limit
_ENOUGH_TO_GUESS = 10  # deciding votes before "about n more" is worth saying


class BlindVote(html.Fallback, anywidget.AnyWidget):
    """Pairs in random order and on random sides; keys 1, 2, 3 (tie), 4 (both bad), u (undo).

    No synced trait names a system before the end: identities are not in the browser, so they cannot slip out.

    Attributes:
        current: the open question: {"number", "total", "prompt", "left", "right"} (texts; pictures travel as bytes).
        done: votes given so far.
        total: pairs to judge, hidden repeats included.
        outcome: {} until the end, then what the votes say, in words and numbers.
        more: about how many more votes decide it (two systems only; identity stays hidden).
        message: what the voter must know (a damaged vote file).
    """

    _esm = html.front("blind_vote.js")
    _css = html.STYLE

    current = tr.Dict().tag(sync=True)
    left_picture = tr.Bytes(b"").tag(sync=True)
    right_picture = tr.Bytes(b"").tag(sync=True)
    done = tr.Int(0).tag(sync=True)
    total = tr.Int(0).tag(sync=True)
    question = tr.Unicode("").tag(sync=True)
    more = tr.Unicode("").tag(sync=True)
    outcome = tr.Dict().tag(sync=True)
    message = tr.Unicode("").tag(sync=True)

    def __init__(
        self,
        candidates: Mapping[str, Sequence[Item]],
        path: str | Path,
        *,
        prompts: Sequence[str] = (),
        texts: Mapping[str, Sequence[str]] | None = None,
        question: str = "Which one is better?",
        seed: int = 0,
        repeats: float = 0.1,
    ) -> None:
        """Ask which of two results is better, and keep every answer.

        Args:
            candidates: {system: results}, pictures or texts, one an item, in the same order for all systems.
            path: JSONL file of the votes; an existing one is continued.
            prompts: what each item was asked for, shown above the pair.
            texts: {system: texts}, what `preferences` exports instead of the results (the prompts behind pictures).
            question: shown to the voter.
            seed: of order, sides and hidden repeats.
            repeats: share of pairs that come a second time, unannounced, with swapped sides.

        Raises:
            ValueError: fewer than two systems, no item, different numbers of items, a vote file of another comparison.
        """
        self._items = {name: list(items) for name, items in candidates.items()}
        counts = {name: len(items) for name, items in self._items.items()}
        items = _common(counts, "results")
        if prompts and len(prompts) != items:
            raise ValueError(f"{len(prompts)} prompts for {items} items; give one an item")
        if texts is not None and {name: len(found) for name, found in texts.items()} != counts:
            raise ValueError(f"texts need one text for every result of {sorted(counts)}")
        self._prompts = [html.clean(prompt) for prompt in prompts] or [""] * items
        self._texts = {name: list(found) for name, found in texts.items()} if texts else None
        self._pairs = draw_pairs(list(self._items), items, seed=seed, repeats=repeats)
        self._file = VoteFile(Path(path), schedule_hash(self._pairs, _fingerprint(self._items, self._prompts)))
        kept = self._file.read(len(self._pairs))
        self._votes, self._revealed = kept.votes, kept.ended
        super().__init__()
        self.question, self.total, self.message = html.clean(question), len(self._pairs), kept.warning
        self._show()
        self.on_msg(self._receive)

    # --- voting ---

    @property
    def votes(self) -> list[Vote]:
        """The answers so far, in the order they were given."""
        return list(self._votes)

    @property
    def finished(self) -> bool:
        """Whether all pairs are judged or the voter has ended the vote."""
        return self._revealed or len(self._votes) == len(self._pairs)

    def vote(self, choice: Choice, seconds: float = 0.0) -> None:
        """Answer the open question; the answer is on the disk when this returns.

        Raises:
            ValueError: an unknown choice, or a vote after the end.
        """
        if choice not in CHOICES:
            raise ValueError(f"no choice {choice!r}; choose one of {', '.join(CHOICES)}")
        if self.finished:
            raise ValueError("the vote is over: identities are known, further votes would not be blind")
        vote = Vote(len(self._votes), choice, round(float(seconds), 2))
        self._file.add(vote)
        self._votes.append(vote)
        self._show()

    def undo(self) -> None:
        """Take the last answer back and ask again. Not possible once identities are shown."""
        if self.finished:
            raise ValueError("the vote is over: a changed answer would not be blind")
        if self._votes:
            self._file.undo()
            self._votes.pop()
            self._show()

    def reveal(self) -> Results:
        """End the vote with the answers so far and show whose results they were."""
        if not self.finished:
            self._file.end()
            self._revealed = True
            self._show()
        return self.results()

    def results(self) -> Results:
        """What the answers say. Reading this before the end unblinds you."""
        return results(self._pairs, self._votes)

    # --- for training ---

    def preferences(self) -> list[dict[str, str]]:
        """Preference pairs {"prompt", "chosen", "rejected", "chosen_system", "rejected_system"}; repeats are left out.

        Raises:
            ValueError: pictures without `texts`: use `export`, which saves them as files.
        """
        source = self._texts or self._items
        if any(not isinstance(item, str) for items in source.values() for item in items):
            raise ValueError("results are pictures: give texts= (the prompts behind them), or call export(path)")
        return [
            self._preference(pair, chosen, str(source[chosen][pair.item]), str(source[other][pair.item]))
            for pair, chosen, other in self._decided()
        ]

    def export(self, path: str | Path) -> Path:
        """Write preference pairs as JSONL, as trl's trainers read them. Pictures are saved in a folder beside it."""
        target = Path(path)
        if self._texts or all(isinstance(item, str) for items in self._items.values() for item in items):
            rows = self.preferences()
        else:
            folder = target.with_suffix(".images")
            rows, pictures = [], {}
            for pair, chosen, other in self._decided():
                files = []
                for name in (chosen, other):
                    item = self._items[name][pair.item]
                    if isinstance(item, Image.Image):
                        file = f"{image_hash(item)}.png"
                        pictures[file] = item
                        files.append(f"{folder.name}/{file}")
                    else:
                        files.append(item)
                rows.append(self._preference(pair, chosen, files[0], files[1]))
            _save_pictures(folder, pictures)
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return target

    def _decided(self) -> list[tuple[Pair, str, str]]:
        """(pair, preferred system, other system) of every first showing that was decided."""
        shown = [(self._pairs[vote.pair], vote.choice) for vote in self._votes]
        return [
            (pair, chosen, pair.right if chosen == pair.left else pair.left)
            for pair, choice in shown
            if not pair.repeat and (chosen := winner(pair, choice))
        ]

    def _preference(self, pair: Pair, chosen_system: str, chosen: str, rejected: str) -> dict[str, str]:
        other = pair.right if chosen_system == pair.left else pair.left
        return {
            "prompt": self._prompts[pair.item],
            "chosen": chosen,
            "rejected": rejected,
            "chosen_system": chosen_system,
            "rejected_system": other,
        }

    # --- the browser's side ---

    def _receive(self, _: object, content: dict[str, Any], __: object) -> None:
        try:
            if content.get("kind") == "undo":
                self.undo()
            elif content.get("kind") == "reveal":
                self.reveal()
            # A second click on the same pair arrives after the first was counted: it belongs to no open question.
            elif content.get("kind") == "vote" and content.get("number") == len(self._votes):
                self.vote(content["choice"], content.get("seconds", 0.0))
        except Exception as error:  # noqa: BLE001 - the kernel would only log it; the voter must see it
            self.message = html.clean(error)

    def _show(self) -> None:
        with self.hold_sync():
            self.more = self._guess()
            if self.finished:
                self.outcome = describe(self.results())
                self.current, self.left_picture, self.right_picture = {}, b"", b""
            else:
                pair = self._pairs[len(self._votes)]
                sides = {"left": self._items[pair.left][pair.item], "right": self._items[pair.right][pair.item]}
                texts = {side: html.clean(item) if isinstance(item, str) else None for side, item in sides.items()}
                self.left_picture, self.right_picture = (_bytes(item) for item in sides.values())
                self.current = {"number": len(self._votes), "prompt": self._prompts[pair.item], **texts}
            # Last, so that whoever observes the count finds everything else up to date.
            self.done = len(self._votes)

    def _guess(self) -> str:
        if len(self._items) != 2:
            return ""
        rate = win_rates(self._pairs, self._votes)[0]
        if rate.share.n < _ENOUGH_TO_GUESS:
            return ""
        if rate.more is None:
            return "no difference in sight"
        return "enough votes to decide" if rate.more == 0 else f"about {rate.more:,} more votes to decide"

    # --- without a kernel ---

    def __repr__(self) -> str:
        return f"BlindVote({len(self._items)} systems, {len(self._votes)} of {len(self._pairs)} pairs judged)"

    def fallback(self) -> str:
        """The results, or the open pair while the vote is running (still blind)."""
        state = f"<p>{len(self._votes)} of {len(self._pairs)} pairs judged.</p>"
        body = _static_outcome(self.outcome) if self.finished else self._static_pair()
        return f'<div style="font-family:sans-serif">{html.notice(self.message)}{state}{body}</div>'

    def _static_pair(self) -> str:
        pair = self._pairs[len(self._votes)]
        cells = []
        for name, system in (("left", pair.left), ("right", pair.right)):
            item = self._items[system][pair.item]
            shown = html.block(item) if isinstance(item, str) else html.picture(as_png(item, 384), name)
            cells.append(f'<div style="flex:1 1 240px;border:{html.LINE};padding:8px"><b>{name}</b><br>{shown}</div>')
        prompt = html.block(self._prompts[pair.item], "font-size:1.1em;margin:6px 0")
        return f'{prompt}<div style="display:flex;gap:12px;flex-wrap:wrap">{"".join(cells)}</div>'


def _static_outcome(outcome: Mapping[str, Any]) -> str:
    rates = [
        [html.escape(row[key]) for key in ("pair", "rate", "wins", "ties", "bad", "more")] for row in outcome["rates"]
    ]
    head = ("pair", "win rate of the first", "wins", "ties", "both bad", "more votes to decide")
    strengths = [
        [html.escape(row["system"]), row["score"], f"[{row['low']}, {row['high']}]"] for row in outcome["strengths"]
    ]
    return (
        html.table(head, rates)
        + html.table(("system", "Bradley-Terry score", "95% interval"), strengths)
        + f"<p>{html.escape(outcome['bias'])}; {html.escape(outcome['consistency'])}.</p>"
    )


def _bytes(item: Item) -> bytes:
    return b"" if isinstance(item, str) else as_png(item, _SHOWN_EDGE)


def _common(counts: Mapping[str, int], what: str) -> int:
    if len(counts) < 2:
        raise ValueError(f"a blind vote compares two or more systems, not {list(counts)}")
    if len(set(counts.values())) > 1:
        raise ValueError(f"all systems need the same number of {what}, not {dict(counts)}")
    items = next(iter(counts.values()))
    if not items:
        raise ValueError(f"there are no {what} to vote on; every system has 0")
    return items


def _fingerprint(items: Mapping[str, Sequence[Item]], prompts: Sequence[str]) -> str:
    """A hash of everything that is judged: votes on other contents are not these votes."""
    found = hashlib.sha256(json.dumps(list(prompts)).encode())
    for name, row in items.items():
        found.update(json.dumps([name, *(x if isinstance(x, str) else image_hash(x) for x in row)]).encode())
    return found.hexdigest()[:16]


def _save_pictures(folder: Path, pictures: Mapping[str, Image.Image]) -> None:
    missing = {name: image for name, image in pictures.items() if not (folder / name).exists()}
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            for name, image in missing.items():
                image.save(temporary / name)
        return
    for name, image in missing.items():
        with atomic_file(folder / name) as temporary:
            image.save(temporary)
