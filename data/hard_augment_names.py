"""The names of --hard-augment, how often each comes, and how they are written; quick to import.

What each does stands in data/hard_augment.py.
"""

# {name: probability}. Of the first kind at most one comes to an image.
PLACED = {
    "small": 0.25,
    "close": 0.1,
    "elsewhere": 0.1,
    "several": 0.15,
    "mosaic": 0.1,
    "empty": 0.1,
}
TURNED = {"turned": 0.1}
TAKEN = {"lit": 0.3, "blurred": 0.2, "compressed": 0.2}
USUAL = {**PLACED, **TURNED, **TAKEN}
ALL = "all"


def parse(text):
    """ "small:2+lit", "all" or "all:0.5" -> {name: probability} in the order above: the usual one,
    times the number that follows a name.

    Raises ValueError for other names, numbers that are not positive, and probabilities that add up
    to more than 1."""
    factors = {}
    for word in text.split("+"):
        name, _, factor = word.partition(":")
        if name not in USUAL and word != text or name not in (*USUAL, ALL):
            raise ValueError(
                f"there is no hard augmentation {name!r}; there are {', '.join(USUAL)}, "
                f"joined by +, and {ALL} on its own"
            )
        factors[name] = _number(word)
    if ALL in factors:
        factors = dict.fromkeys(USUAL, factors[ALL])
    found = {name: USUAL[name] * factors[name] for name in USUAL if name in factors}
    placed = sum(found.get(name, 0) for name in PLACED)
    if max(placed, *found.values()) > 1 + 1e-9:
        raise ValueError(
            f"{text!r} is more often than always: {', '.join(PLACED)} come to {placed:.3g} of the "
            "images together, and they, like each of the others, may come to 1"
        )
    return found


def canonical(text):
    """The same as it is recorded: names in their order, each once, without a factor of 1."""
    factors = {name: found / USUAL[name] for name, found in parse(text).items()}
    if text.partition(":")[0] == ALL:
        factors = {ALL: factors["turned"]}
    words = []
    for name, factor in factors.items():
        words.append(name if abs(factor - 1) < 1e-9 else f"{name}:{factor:.6g}")
    return "+".join(words)


def _number(word):
    name, colon, factor = word.partition(":")
    try:
        number = float(factor) if colon else 1.0
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(
            f"{factor!r} is not a factor of the usual probability; write for example {name}:0.5"
        )
    return number
