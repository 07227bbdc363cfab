"""Texts at the edges of what an SMS holds, the words of a STOP, and numbers that nobody has. Pure."""

from collections.abc import Iterator, Mapping

# No number of these is anybody's: ARCEP keeps 06 39 98 for fiction (decision 2018-0881)
FICTIONAL = "+3363998"
FIRST, LAST = 4000, 9999

# GSM-7: 160 septets in one SMS, 153 in each of several, two for a character of the extension. UCS-2: 70 and 67 units
EDGES: Mapping[str, str] = {
    "one character": "é",
    "spaces around": "  vendredi  ",
    "lines": "Bonjour,\nvendredi\n\nla boutique",
    "the first of the alphabet": "@@ à 10 % @",
    "Greek capitals": "ΔΦΓΛΩΠΨΣΘΞ",
    "the extension": "^{}\\[~]|€",
    "160 septets": "é" * 160,
    "161 septets": "à" * 160 + "ù",
    "an escape where a part ends": "a" * 152 + "€" + "b" * 30,
    "306 septets": "x" * 305 + "y",
    "307 septets": "x" * 306 + "y",
    "of UCS-2 for one letter": "Façade de l'église",
    "typography": "« L’été » – 20 % … œuvre",
    "70 units": "ж" * 70,
    "71 units": "ж" * 70 + "щ",
    "an emoji where a part ends": "ж" * 66 + "😀" + "ж" * 20,
    "joined emoji": "👩‍👩‍👧‍👦 🇫🇷 👍🏽",
    "right to left": "مرحبا بك, שלום",
    "what looks like markup": '<b>&amp;</b> "quoted" \\n %41+%20 {stop} ${x}',
}

WORDS = ("soldes", "vendredi", "lune", "rivage", "atelier", "panier", "matin", "offre")
PARTS, GSM7_OF_A_PART, UCS2_OF_A_PART = 8, 153, 67
LONG: Mapping[str, str] = {
    f"{PARTS} parts of GSM-7": " ".join(f"{n:03d} {WORDS[n % 8]}" for n in range(300))[: PARTS * GSM7_OF_A_PART],
    f"{PARTS} parts of UCS-2": " ".join(f"{n:03d} œ{WORDS[n % 8]}" for n in range(150))[: PARTS * UCS2_OF_A_PART],
}

# What a person writes who wants no more, as written
STOPS = ("STOP", "stop", "Stop.", " STOP ", "ARRET", "Arrêt", "STOP SMS", "Stop merci", "STOP au 36111", "🛑 STOP")
NO_STOPS = ("Merci !", "Où est ma commande ?", "START")


def numbers(skipped: int = 0) -> Iterator[str]:
    """Yield fictional numbers, each once. `skipped`: of the first ones, so that two runs have different people."""
    for n in range(FIRST + skipped, LAST + 1):
        yield f"{FICTIONAL}{n:04d}"
