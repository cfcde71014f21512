"""What of a prompt says what to show (main content), and what says how (modifiers).

Engineered prompts are comma-separated: a description first, then phrases such as "trending on artstation". The rule:

1. Parameters ("--ar 16:9", "<lora:x:1>") are dropped, weights "(word:1.3)" are opened, separators are , ; | and line
   ends.
2. An artist's credit ("by Greg Rutkowski", "in the style of Monet") inside a phrase splits it: the rest is a modifier.
3. A phrase is a modifier if it is in the lexicon or matches one of its patterns.
4. The first phrase that is not a modifier is main content. So is any later phrase that is no modifier and goes on
   describing: one that begins with an article, a preposition, a pronoun, "and", or a verb in -ing. All others are
   modifiers: people name unknown artists and styles there.
"""

import functools
import re
from dataclasses import dataclass

_PARAMETER = re.compile(r"(?:^|\s)--?[a-z]+(?:\s+[\d:.]+)?|<[^<>]*>", re.IGNORECASE)
# Begins at the first bracket of a run and keeps the whole run, so that thousands of open ones take no quadratic time.
_WEIGHTED = re.compile(r"(?<![(\[{])[(\[{]++([^()\[\]{}]*?)(?::\s*-?[\d.]+)?[)\]}]+")
_SEPARATOR = re.compile(r"[,;|\n]+|\.(?:\s+|$)")

_LEXICON = frozenset(
    """
    masterpiece|best quality|high quality|low quality|worst quality|highly detailed|very detailed|ultra detailed
    extremely detailed|hyper detailed|hyperdetailed|detailed|intricate|intricate details|intricate detail|elegant
    sharp focus|soft focus|out of focus|blurry|grainy|noisy|vivid colors|vivid colours|vibrant colors|vibrant|colorful
    dull colors|washed out|studio lighting|dramatic lighting|cinematic lighting|volumetric lighting|soft lighting
    rim lighting|natural lighting|cinematic|photorealistic|photo realistic|hyperrealistic|hyper realistic|realistic
    hyperrealism|photorealism|realism|surrealism|impressionism|art nouveau|art deco|baroque|digital art|digital painting
    concept art|fan art|fantasy|fantasy art|sci-fi|illustration|oil painting|oil on canvas|watercolor|watercolour
    matte painting|pencil sketch|line art|pixel art|anime|anime style|manga|comic book|vaporwave|synthwave|cyberpunk
    steampunk|dystopian|ethereal|epic|epic composition|beautiful|stunning|gorgeous|amazing|award winning|award-winning
    professional|professional photo|professional photography|photography|photograph|photo|portrait|close up|close-up
    closeup|wide angle|wide shot|full body|full-body|bokeh|depth of field|dof|hdr|hd|uhd|4k|8k|16k|full hd|ultra hd
    high resolution|highres|absurdres|octane|octane render|unreal engine|unreal engine 5|vray|v-ray|blender|cgi
    ray tracing|raytracing|3d|3d render|render|smooth|global illumination|golden ratio|rule of thirds|symmetrical
    symmetry|centered|trending|artstation|art station|artstation hq|artstation hd|deviantart|deviant art|cgsociety
    pixiv|behance|pinterest|instagram|wallpaper|no watermark|watermark|signature|please|lol|wow|nice|very cool|cool
    my favourite|my favorite|amateur snapshot|old phone picture|moody|dark|gloomy|atmospheric|dreamy|whimsical|cute
    minimalist|minimalistic|monochrome|black and white|sepia|retro|vintage|futuristic|space opera|film grain|kodak
    35mm|50mm|85mm|f/1.4|f/1.8|f/2.8|iso 100|polaroid|dslr|long exposure|macro|macro photography|analog style
    """.replace("\n", "|").split("|")
)
LEXICON = frozenset(" ".join(word.split()) for word in _LEXICON if word.strip())

_MADE = (
    "art|artwork|painting|painted|illustration|illustrated|drawing|drawn|photo|photograph(?:y|ed)?|image|picture|work|"
    "design|designed|directed|render(?:ed)?|concept art|digital (?:art|painting)"
)
_PRAISED = "detail|realis|qualit|resolution|definition|hd|intricate|sharp|complex"
_ASPECT = (
    r"lighting|render(?:ing|ed)?|engine(?: \d)?|resolution|quality|composition|palette|lens|focus|shading|colors|"
    "colours|color scheme|tones?|details?"
)
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"^(?:{_MADE})\s+(?:by|of the artist)\b",
        r"^by\s+\S",
        r"^(?:in the |in a )?styles? of\b|^(?!an? |the )(?:\S+\s+){0,3}(?:style|aesthetics?)$|^in style\b",
        r"\btrending\b|\bart ?station\b|\bdeviant ?art\b|\bcgsociety\b|\bpixiv\b|\bpixabay\b|\bunsplash\b|\bflickr\b",
        rf"^(?:ultra|super|very|extremely|highly|hyper|insanely)[- ]?(?:high |fine |sharp )?(?:{_PRAISED})",
        r"^\d+\s*(?:k|mm|px|dpi|fps)\b|^f\s*/\s*[\d.]+|^(?:19|20)\d\d$",
        rf"^(?!an? |the )(?:\S+\s+){{0,3}}\S*\b(?:{_ASPECT})$",
        r"^(?:award|prize)[- ]winning\b|\bmasterpiece\b",
        r"^(?:low|high|best|worst)[- ](?:quality|res|poly)\b",
        r"^(?:octane|unreal|vray|v-ray|blender|redshift|cinema ?4d|c4d|zbrush|arnold)\b",
    )
)
# After these a "by" names an artist, unless what follows is a place or a thing with an article.
_CREDIT = re.compile(
    r"\s+(?:(?:(?:digital |oil |concept )?(?:art|artwork|painting|illustration|drawing|photo|photograph)\s+)?by\s+"
    r"(?!(?:the|a|an|my|his|her|its|their|our|your|this|that|some|moonlight|candlelight|night|day|sea|itself)\b)"
    r"(?=\S+\s+\S+|(?:van|da|de)\b|[A-Z])|in the styles? of\s+|style of\s+)",
)
_GOES_ON = re.compile(
    r"^(?:a|an|the|and|or|with|without|in|on|at|under|over|above|below|behind|beside|between|near|next|inside|outside|"
    r"during|through|across|against|around|among|beneath|into|onto|from|of|by the|by a|who|which|that|while|where|as|"
    r"his|her|its|their|my|two|three|four|five|many|some|\w{2,}ing)\b",
    re.IGNORECASE,
)
_PAINTING_OF = re.compile(
    r"^(?:an?\s+|the\s+)?(?:\w+\s+){0,3}?(?:painting|drawing|sketch|illustration|render|photo|photograph|picture|image|"
    r"portrait|close ?up|artwork|concept art)\s+of\s+(?=\S)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Parts:
    """A prompt taken apart.

    Attributes:
        content: what to show.
        modifiers: how to show it, in the order written.
    """

    content: str
    modifiers: tuple[str, ...]

    def joined(self, modifiers: tuple[str, ...] | None = None) -> str:
        """Content and modifiers (or others) as one prompt."""
        parts = [self.content, *(self.modifiers if modifiers is None else modifiers)]
        return ", ".join(part for part in parts if part)


@functools.lru_cache(maxsize=2**16)
def is_modifier(phrase: str) -> bool:
    """Whether a phrase says how to show something rather than what.

    >>> is_modifier("Trending on ArtStation"), is_modifier("8 k"), is_modifier("by Greg Rutkowski")
    (True, True, True)
    >>> is_modifier("a rabbit in space")
    False
    """
    plain = " ".join(phrase.lower().split()).strip(" .!\"'")
    return plain in LEXICON or plain.replace(" ", "") in LEXICON or any(p.search(plain) for p in _PATTERNS)


def phrases(prompt: str) -> list[str]:
    """The phrases of a prompt: parameters dropped, weights opened, artists' credits split off.

    >>> phrases("a (red:1.3) fox by Greg Rutkowski, 8k --ar 16:9")
    ['a red fox', 'by Greg Rutkowski', '8k']
    """
    text = _PARAMETER.sub(" ", prompt)
    while (opened := _WEIGHTED.sub(r"\1", text)) != text:
        text = opened
    found: list[str] = []
    for piece in _SEPARATOR.split(text):
        phrase = " ".join(piece.split()).strip(" -\"'")
        credit = _CREDIT.search(phrase)
        if credit and credit.start() > 0 and not is_modifier(phrase):
            found += [phrase[: credit.start()].strip(), phrase[credit.start() :].strip()]
        elif phrase:
            found.append(phrase)
    return [phrase for phrase in found if phrase]


def split_prompt(prompt: str) -> Parts:
    """Separate main content from modifiers, by the rule above.

    >>> split_prompt("a rabbit in space, wearing a hat, digital art, Greg Rutkowski, 8k")
    Parts(content='a rabbit in space, wearing a hat', modifiers=('digital art', 'Greg Rutkowski', '8k'))

    Raises:
        ValueError: the prompt has no phrase, or modifiers only.
    """
    found = phrases(prompt)
    content: list[str] = []
    modifiers: list[str] = []
    for phrase in found:
        if is_modifier(phrase) or (content and not _GOES_ON.match(phrase)):
            modifiers.append(phrase)
        else:
            content.append(phrase)
    if not content:
        raise ValueError(f"the prompt {prompt[:60]!r} names nothing to show: it is empty or has modifiers only")
    return Parts(", ".join(content), tuple(modifiers))


def split_or_tags(prompt: str) -> Parts:
    """Like `split_prompt`, for texts that a model wrote: one that names nothing to show has an empty content.

    >>> split_or_tags("masterpiece, 8k")
    Parts(content='', modifiers=('masterpiece', '8k'))
    """
    try:
        return split_prompt(prompt)
    except ValueError:
        return Parts("", tuple(phrases(prompt)))


def subject_of(content: str) -> str:
    """Main content without "a painting of" and the like, lower-case: what two prompts have in common.

    >>> subject_of("A detailed oil painting of a Red Fox")
    'a red fox'
    """
    return " ".join(_PAINTING_OF.sub("", content).lower().split())
