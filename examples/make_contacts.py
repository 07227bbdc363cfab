"""Writes contacts.csv beside this file: 10,000 lines as a shop's export might look, always the same.

Every number is in 06 39 98 xx xx, the range ARCEP keeps for fiction (fixed lines: 01 99 00 xx xx), so no line of it
can reach anybody. 9,800 are mobiles, each once, written in many ways; 200 are what such files also hold.

    python examples/make_contacts.py
"""

import csv
import random
from collections.abc import Callable, Iterator
from pathlib import Path

SEED = 20240308
LINES = 10_000
BROKEN = {"fixed": 40, "short": 40, "letters": 30, "empty": 30, "code": 30, "again": 30}

FIRST_NAMES = """
Adèle Agnès Aïcha Aimé Alban Amélie Anaïs André Anne-Laure Antoine Aurélie Bénédicte Benoît Bérénice Camille Cécile
Céline Chloé Claire Clément Corentin Daphné David Delphine Denis Édouard Élise Élodie Émile Emma Éric Estelle Étienne
Eugénie Fabien Fatou Félix Florian François Françoise Gaël Gaëlle Geneviève Gérard Grégory Hélène Hervé Hugo Inès
Isaïe Jade Jean-Baptiste Jérémy Jérôme Joël Julie Karim Laëtitia Léa Léo Léonie Loïc Louise Lucas Maël Maëlys Manon
Marc Marie Marie-Noëlle Mathéo Mathis Maxime Mélanie Michaël Mickaël Moïse Nadège Naïma Nathan Nicolas Noé Noël Noémie
Océane Olivier Pascal Paul Pénélope Raphaël Rémi Renée Romain Salomé Samuel Sébastien Sélim Séverine Simon Solène
Sophie Stéphane Théo Thérèse Valérie Véronique Victor Xavier Yasmine Yann Zacharie Zoé
""".split()  # noqa: SIM905 one word after another reads better
CITIES = (  # noqa: SIM905
    "Paris;Marseille;Lyon;Toulouse;Nice;Nantes;Montpellier;Strasbourg;Bordeaux;Lille;Rennes;Reims;Saint-Étienne;"
    "Le Havre;Toulon;Grenoble;Dijon;Angers;Nîmes;Villeurbanne;Clermont-Ferrand;Le Mans;Aix-en-Provence;Brest;Tours;"
    "Amiens;Limoges;Annecy;Perpignan;Besançon;Orléans;Mulhouse;Rouen;Caen;Nancy;Béziers;Évreux;Alès;Sète;Épinal;"
    "Châteauroux;Angoulême;Nevers;Mâcon;Bourg-en-Bresse;Périgueux;Pau;L’Haÿ-les-Roses;Saint-Malo;Créteil"
).split(";")
LOYALTY = ("or", "argent", "bronze")


def pairs(number: str, between: str) -> str:
    return between.join(number[i : i + 2] for i in range(0, len(number), 2))


# `number`: ten digits, from 06. What people, tills, spreadsheets and other systems make of it, and how often.
WAYS: tuple[tuple[int, Callable[[str], str]], ...] = (
    (24, lambda number: pairs(number, " ")),
    (16, lambda number: number),
    (14, lambda number: "+33" + number[1:]),
    (8, lambda number: pairs(number, ".")),
    (6, lambda number: pairs(number, "-")),
    (6, lambda number: number[1:]),  # a spreadsheet took the 0
    (5, lambda number: "+33 " + number[1] + " " + pairs(number[2:], " ")),
    (4, lambda number: "+33 (0)" + number[1] + " " + pairs(number[2:], " ")),
    (4, lambda number: "0033" + number[1:]),
    (3, lambda number: "33" + number[1:]),
    (2, lambda number: pairs(number, "/")),
    (2, lambda number: number[:4] + " " + number[4:7] + " " + number[7:]),
    (2, lambda number: "'" + number),
    (1, lambda number: pairs(number, "\u00a0")),
    (1, lambda number: pairs(number, " . ")),
    (1, lambda number: "tel:+33" + number[1:]),
    (1, lambda number: f" {number} "),
)
LETTERS = ("non communiqué", "voir dossier", "06 39 98 XX XX", "en attente", "n/a", "O639981234")
CODES = ("36111", "38200", "3900", "118 218")


def written(number: str, rng: random.Random) -> str:
    [(_, way)] = rng.choices(WAYS, [weight for weight, _ in WAYS])
    return way(number)


def numbers(rng: random.Random) -> Iterator[str]:
    """The number cell of each line."""
    order = rng.sample(range(LINES), LINES)
    mobiles = [f"063998{n:04}" for n in order[: LINES - sum(BROKEN.values())]]
    kinds = ["mobile"] * len(mobiles) + [kind for kind, count in BROKEN.items() for _ in range(count)]
    rng.shuffle(kinds)
    left = iter(mobiles)
    for kind in kinds:
        match kind:
            case "mobile":
                yield written(next(left), rng)
            case "again":
                yield written(rng.choice(mobiles), rng)
            case "fixed":
                yield pairs(f"019900{rng.randrange(10_000):04}", " ")
            case "short":
                yield pairs(f"063998{rng.randrange(1000):03}", " ")
            case "letters":
                yield rng.choice(LETTERS)
            case "code":
                yield rng.choice(CODES)
            case "empty":
                yield ""


def main() -> None:
    rng = random.Random(SEED)  # noqa: S311 the same file each time is the point
    with (Path(__file__).parent / "contacts.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter=";", lineterminator="\n")
        lines.writerow(("number", "first_name", "city", "loyalty"))
        for number in numbers(rng):
            first_name = rng.choice(FIRST_NAMES) if rng.random() > 0.01 else ""
            lines.writerow((number, first_name, rng.choice(CITIES), rng.choices(LOYALTY, (1, 3, 6))[0]))


if __name__ == "__main__":
    main()
