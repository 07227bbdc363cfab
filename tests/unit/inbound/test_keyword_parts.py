"""What the parts of a text make of it: a wish in any wording, a word that names a thing, an act of another."""

import pytest

from inbound.keywords import classify

WISHES = [
    # a refusal, and what we send or do
    "Auriez-vous la bonté de ne plus rien adresser à ce numéro",
    "Il n'est plus nécessaire de m'écrire",
    "aucun intérêt pour moi dans vos promos, aucun besoin de vos sms",
    "J'apprécierais que vous cessiez vos envois",
    "Mettez un terme à ces annonces, à vos textos, à tout",
    "evitez de m'appeler pour vos soldes",
    "je voudrais être moins sollicité",
    # asked before
    "désinscrite depuis mai et je reçois encore vos pubs",
    # weary of what we send
    "Quelle plaie, marre de toutes vos pubs",
    "vraiment trop de textos",
    # a farewell to the sender
    "gardez vos promos",
    "va donc te faire voir",
    "barrez-vous avec vos soldes",
    "halte aux pubs",
    # nothing but fillers beside
    "wesh arrête quoi",
    "ça dégage",
    "marre marre marre",
    # in one word
    "nemecrivezplus",
    # the writer's everyday life begins another sentence
    "laissez-moi tranquille je suis au travail",
    # a slip in the verb, and words without spaces as they sound
    "Aretez vos textos svp",
    "areter de me contacter",
    "pludesms svp",
    "Plus2pub",
    "Supprimez merci",
]

HELD = [
    # of another: a person, or our text
    "ma cousine ne veut plus recevoir vos messages",
    "Le gardien a dit stop",
    "votre message dit stop, mais où ?",
    "Papa, arrête de m'écrire en cours",
    # only thought of
    "je suis à deux doigts, j'hésite à vous dire stop",
    # a slogan
    "Stop aux bouchons",
    # "vous" tells
    "vous n'envoyez plus rien ?",
    # aimed at the writer, and perhaps everyday
    "arrêtez de m'appeler au boulot",
    # two words, and no thing
    "non stop",
    "no paren",
    # praise that mocks
    "génial, encore ! ne vous arrêtez surtout pas, j'adore",
    # a STOP that does not help
    "c'est quoi ce stop qui ne marche pas",
    # a refusal, and a thing of the shop that is far
    "je refuse tout net comme expliqué hier au vendeur",
    # another's wish, or an act that may be ours
    "ma cousine veut arrêter les textos",
    "mon frère veut arrêter ce bazar",
    "mon fils me fait arrêter le truc",
    # the words of a rule, in another order
    "de vos textos on en a jamais marre",
    # a thing, and a wish beside the word
    "donnez-moi le stop, ici Nadia",
    "où est l'arrêt de vos envois, Madame ?",
]

NOTHING = [
    # the word names a thing
    "le stop en bas de la côte",
    "Vous faites du non-stop le midi ?",
    "avez-vous du stop moustiques",
    # an act of another, or of a thing
    "ils ont arrêté la ligne 12",
    "le grille-pain s'est arrêté net",
    "I had to stop at the bakery",
    "Vous arrêtez la gamme enfant ?",
    # the word is asked about
    'que veut dire "STOP" ? ça veut dire quoi',
    # our text, and words below
    "SOLEIL: -20% ce samedi. STOP au 36111\nvalable aussi à Nantes ?",
    # it goes on
    "n'arrêtez pas, j'adore vos bons plans",
    # a purchase
    "Bande de voleurs, le manteau a perdu deux boutons",
    "je ne veux plus le canapé gris",
    "N'envoyez pas le colis, je passe",
    # the family's acts, and a way
    "Ma cousine veut arrêter le violon, on peut être remboursés ?",
    "Difficile d'arrêter mon frère devant vos rayons",
    "Au stop à gauche puis tout droit, maison verte",
    # an act that is told
    "Mon train est annulé, je passe demain",
]

CASES = [("stop", WISHES), ("review", HELD), ("none", NOTHING)]


@pytest.mark.parametrize(("intent", "text"), [(intent, text) for intent, texts in CASES for text in texts])
def test_the_parts_of_a_text_tell_what_is_asked(intent: str, text: str) -> None:
    assert classify(text).intent == intent


def test_a_regret_without_a_verb_is_a_return() -> None:
    understood = classify("oups le STOP, fausse manip de ma part")

    assert (understood.intent, understood.concern) == ("review", "return")


def test_a_question_where_the_number_is_from_is_no_stop() -> None:
    understood = classify("D'où sort mon numéro dans vos fichiers ?")

    assert (understood.intent, understood.concern) == ("review", "source")


def test_fillers_change_nothing_in_what_loosens() -> None:
    assert classify("ok start la").intent != "start"
    assert classify("franchement oui quoi").intent != "confirm"
