"""Sentences to be spoken: endless ones for training from our own words, fixed ones held out.

A training sentence is a plain clause in one of eight languages, a number, or invented words (which
every synthesiser reads and which hold sounds that the word lists lack).  The held-out sentences are
written out below and can never be drawn for training.
"""

from __future__ import annotations

from typing import NamedTuple

from tok_core.procedural_draws import Draws

VERSION = 1


class Clause(NamedTuple):
    """Words of one language, combined as subject + verb + object + adverbial."""

    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    objects: tuple[str, ...]
    endings: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


CLAUSES: dict[str, Clause] = {
    "en": Clause(
        _words(
            "the teacher, my sister, a tall sailor, the old baker, nobody, every child, the judge, "
            "her uncle, a quiet farmer, the young doctor, our neighbour, the pilot, a stranger, "
            "the whole village, this engine, the yellow bird, a thin fox, the choir, his friend, "
            "the queen, one soldier, the painter, a busy nurse, the winter storm, some people"
        ),
        _words(
            "carried, watched, forgot, opened, painted, followed, asked about, sold, repaired, "
            "heard, wanted, measured, brought, threw away, remembered, described, chose, lifted, "
            "found, could never see, should have kept, washed, enjoys, will visit, pushes"
        ),
        _words(
            "the wooden bridge, a small blue box, the river, three oranges, the broken clock, "
            "a letter from home, the church bell, a pair of gloves, the garden gate, fresh fish, "
            "the measure of gold, a jar of honey, the long road, two cups of tea, the thick rope, "
            "a picture of the sea, the heavy chair, an empty house, the museum, my favourite song, "
            "a sharp knife, the vision, yellow shoes, the judge's jacket, a strange machine"
        ),
        _words(
            "in the morning, before the rain began, with both hands, at nine o'clock, again, "
            "near the station, without a word, for many years, on Thursday, after the feast, "
            "under the tree, very slowly, as if by chance, last August, out of the window, "
            "because it was cold, while we slept, in a loud voice, far from the shore, twice"
        ),
    ),
    "de": Clause(
        _words("der Lehrer, meine Schwester, ein alter Mann, die Nachbarin, jedes Kind, das Pferd"),
        _words("sucht, findet, kauft, bringt, hört, vergisst, zeichnet, öffnet"),
        _words("das kleine Haus, einen Schlüssel, die Brücke, frisches Brot, den Zug, zwei Bücher"),
        _words("am Morgen, ohne ein Wort, hinter der Kirche, seit vielen Jahren, im Winter, heute"),
    ),
    "fr": Clause(
        _words("le professeur, ma soeur, un vieil homme, la voisine, chaque enfant, le cheval"),
        _words("cherche, trouve, achète, porte, écoute, oublie, dessine, ouvre"),
        _words("la petite maison, une clé, le pont, du pain frais, le train, deux livres rouges"),
        _words("le matin, sans un mot, derrière l'église, depuis longtemps, en hiver, aujourd'hui"),
    ),
    "es": Clause(
        _words("el maestro, mi hermana, un hombre viejo, la vecina, cada niño, el caballo"),
        _words("busca, encuentra, compra, lleva, escucha, olvida, dibuja, abre"),
        _words("la casa pequeña, una llave, el puente, pan fresco, el tren, dos libros rojos"),
        _words("por la mañana, sin decir nada, detrás de la iglesia, hace años, en invierno, hoy"),
    ),
    "it": Clause(
        _words("il maestro, mia sorella, un uomo vecchio, la vicina, ogni bambino, il cavallo"),
        _words("cerca, trova, compra, porta, ascolta, dimentica, disegna, apre"),
        _words("la piccola casa, una chiave, il ponte, pane fresco, il treno, due libri rossi"),
        _words("di mattina, senza una parola, dietro la chiesa, da molti anni, d'inverno, oggi"),
    ),
    "pt": Clause(
        _words("o professor, minha irmã, um homem velho, a vizinha, cada criança, o cavalo"),
        _words("procura, encontra, compra, leva, escuta, esquece, desenha, abre"),
        _words("a casa pequena, uma chave, a ponte, pão fresco, o trem, dois livros vermelhos"),
        _words("de manhã, sem uma palavra, atrás da igreja, há muitos anos, no inverno, hoje"),
    ),
    "nl": Clause(
        _words("de leraar, mijn zus, een oude man, de buurvrouw, ieder kind, het paard"),
        _words("zoekt, vindt, koopt, brengt, hoort, vergeet, tekent, opent"),
        _words("het kleine huis, een sleutel, de brug, vers brood, de trein, twee rode boeken"),
        _words("in de ochtend, zonder een woord, achter de kerk, al jaren, in de winter, vandaag"),
    ),
    "pl": Clause(
        _words("nauczyciel, moja siostra, stary człowiek, sąsiadka, każde dziecko, koń"),
        _words("szuka, znajduje, kupuje, niesie, słyszy, zapomina, rysuje, otwiera"),
        _words("mały dom, klucz, most, świeży chleb, pociąg, dwie czerwone książki"),
        _words("rano, bez słowa, za kościołem, od wielu lat, w zimie, dzisiaj"),
    ),
}
HELD_OUT_SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "Seven ships left the harbour when the lighthouse turned green.",
        "Please put the magazine back between those two dictionaries.",
        "Thick fog hid the valley, so we walked by the sound of water.",
        "Jack's hungry puppies chewed a cushion, a shoe and half a rug.",
        "Would you rather measure the kitchen today or choose tiles tomorrow?",
        "She poured hot chocolate from a silver jug and laughed.",
        "Five hundred and thirty eight voters chose the other candidate.",
        "A gentle breeze moved the curtain; nothing else changed at all.",
    ),
    "de": (
        "Zwischen sechs und sieben Uhr fährt kein Schiff über den See.",
        "Bitte stellen Sie die grüne Lampe neben das Fenster.",
    ),
    "fr": ("Quelques feuilles jaunes tombent sur le chemin du jardin.",),
    "es": ("Mañana saldremos temprano para llegar a la playa antes del mediodía.",),
}
_ONSETS = _words(
    "b, d, f, g, h, k, l, m, n, p, r, s, t, v, z, sh, ch, j, br, kr, st, sp, tr, fl, pl, sk, gr"
)
_NUCLEI = _words("a, e, i, o, u, ee, oo, ai, ou, ar, or, er")
_CODAS = ("", "", "", "n", "s", "t", "l", "m", "k", "r", "nd", "st", "sh", "ng", "p", "f")


def training_sentence(draws: Draws, language: str) -> str:
    """Return one sentence in ``language`` (a key of CLAUSES; any other gives invented words).

    Example::

        training_sentence(item_draws("speech", version=1, seed=0, index=3), "en")
    """
    at = draws.uniform()
    if language not in CLAUSES or at < 0.15:
        sentence = invented_words(draws, draws.integer(4, 8))
    elif at < 0.2:
        sentence = " ".join(str(draws.integer(1, 99)) for _ in range(draws.integer(3, 6)))
    else:
        clause = CLAUSES[language]
        sentence = " ".join(draws.choice(words) for words in clause)
    return sentence[0].upper() + sentence[1:] + draws.choice((".", ".", ".", "!", "?"))


def invented_words(draws: Draws, count: int) -> str:
    """Return ``count`` words of one to three syllables that mean nothing."""
    return " ".join(
        "".join(
            draws.choice(_ONSETS) + draws.choice(_NUCLEI) + draws.choice(_CODAS)
            for _ in range(draws.integer(1, 3))
        )
        for _ in range(count)
    )
