"""How often each scene of data/scenes.py befalls an image, and what --scenes says of that. Nothing here takes a while to import."""

# {name: chance}. Of the first kind at most one befalls an image.
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
    """ "small:2+lit", "all" or "all:0.5" -> {name: chance} in the order above: the usual chance, times the number that follows a name.

    Raises ValueError for other names, numbers that are not positive, and chances that no image can have.
    """
    factors = {}
    for word in text.split("+"):
        name, colon, factor = word.partition(":")
        if name not in USUAL and text != word or name not in (*USUAL, ALL):
            raise ValueError(
                f"there is no scene {name!r}; there are {', '.join(USUAL)}, joined by +, and {ALL} for itself"
            )
        try:
            factors[name] = float(factor) if colon else 1.0
        except ValueError:
            factors[name] = 0.0
        if not 0 < factors[name] < float("inf"):
            raise ValueError(
                f"{factor!r} is no number of times as often as usual; say {name}:0.5 for half of it"
            )
    found = {
        name: chance * factors[ALL if ALL in factors else name]
        for name, chance in USUAL.items()
        if {name, ALL} & set(factors)
    }
    placed = sum(chance for name, chance in found.items() if name in PLACED)
    if max(placed, *found.values()) > 1 + 1e-9:
        raise ValueError(
            f"{text!r} asks for more scenes than there are images: {', '.join(PLACED)} have "
            f"{placed:.3g} of them together, and each of the others may have 1"
        )
    return found


def canonical(text):
    """The same as it is recorded: names in their order, each once, without a factor of 1."""
    found = parse(text)
    if text.partition(":")[0] == ALL:
        factor = found["turned"] / USUAL["turned"]
        return ALL + _factor(factor)
    return "+".join(name + _factor(chance / USUAL[name]) for name, chance in found.items())


def _factor(value):
    return "" if abs(value - 1) < 1e-9 else f":{value:.6g}"
