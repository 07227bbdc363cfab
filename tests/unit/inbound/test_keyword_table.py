"""Every row of DOMAIN 2.4, and the rows that users of others complain about."""

import pytest

from inbound.keywords import classify
from inbound.keywords.lists import CURRENT, Lists, Rule, Together, load, slips
from inbound.keywords.normal import normalise

STOP = [
    # exact after normalisation
    "STOP",
    "stop",
    "Stop.",
    " stop ",
    '"STOP"',
    "STOP!!!",
    "« STOP »",
    "“Stop”",
    "STOP ?",
    # a word of the trade, the copied mention, courtesy
    "STOP PUB",
    "STOP SMS",
    "Stop SMS",
    "STOP 36111",
    "STOP au 36111",
    "STOP36111",
    "stoppub",
    "Stop svp",
    "stop merci",
    "STOP PLEASE",
    "Bonjour, stop s'il vous plaît",
    # accents
    "arret",
    "ARRÊT",
    "Arrêtez",
    "arrêtez vos sms svp",
    # fewer is a wish that only none grants
    "trop de sms",
    # one slip
    "stopp",
    "tsop",
    "sotp",
    "stpo",
    "srop",
    "stpo svp",
    "sttoopp",
    "stopppp",
    "stoppe",
    "stops",
    # disguises
    "ＳＴＯＰ",
    "𝐒𝐓𝐎𝐏",
    "🅂🅃🄾🄿",
    "🆂🆃🅾🅿",
    "🇸🇹🇴🇵",
    "ꜱᴛᴏᴘ",
    "S T O P",
    "S.T.O.P.",
    "S. T. O. P.",
    "s\nt\no\np",
    "ST OP",
    "ST0P",
    "5T0P 36111",
    "$TOP",
    "SТОР",  # Cyrillic
    "ΣΤΟΡ",  # Greek
    "S\u200bT\u2060OP",
    "\u202eSTOP",
    "STOP\ufe0f",
    "S\u0338T\u0338O\u0338P\u0338",
    "STOP \ud83d",  # half an emoji, cut by a concatenated SMS
    "STOP🙏",
    "🛑",
    "⛔️",
    "OUI 🛑",
    # the first line decides
    "STOP\nJean Dupont\nGérant",
    "STOP\n> Soldes : -30 % ! Ne manquez pas ça. START",
    "Bonjour\nje ne veux pas de ces messages\nStop",
    # every brand, a brand
    "STOP ALL",
    "STOPALL",
    "STOP tout",
    "STOP ACME",
    "STOP je ne veux pas de vos offres",
    # phrases
    "Désinscrivez-moi",
    "Comment me désinscrire de vos listes",
    "plus de sms",
    "Plus de pub merci",
    "laissez moi tranquille",
    "enlevez moi de votre liste",
    "Arrêtez de m'envoyer des messages",
    "n'envoyez plus rien",
    "Je ne veux plus recevoir vos SMS",
    "merci de ne plus me contacter",
    "C'est nul. Stop",
    "Non, stop",
    "non merci stop",
    "opt-out",
    "unsubscribe me",
    "leave me alone",
    "no more texts",
    "Merci de supprimer mon numéro",
    "j'ai déjà dit stop",
    "combien de fois faut il vous dire STOP",
    # asking for erasure
    "Supprimez mes données",
    "je demande l'effacement de mes données svp",
    "Je souhaite que toutes les informations me concernant soient effacées",
    "borren todos mis datos",
    # an insult, a complaint, and nothing else
    "foutez moi la paix",
    "ras le bol",
    "dégage",
    # as it sounds, in one word
    "aretez ca svp",
    "suprimé mon num",
    # a mistake of the sender's is no regret; a couple is no stranger
    "inscrite par erreur, STOP",
    "J'ai dit STOP, vous m'avez contactée par erreur",
    "Arrêtez de m'envoyer des sms sur ma commande",
    "ma femme et moi vous avons dit stop",
    "on vous a dit stop",
    # a letter of another alphabet in a word
    "dеsinsсrivez-mоi",
    "arrêtеz vоs mеssаgеs",
    "Bonjour madame, je vous écris depuis la maison de ma fille, où je passe la semaine avec les enfants et le chien,"
    " il fait beau et nous allons bien, merci. Dеsinsсrivez-mоi",
    # languages of France, and of its people
    "arété voyé mésaj ban mwen",
    "ez bidali mezu gehiago",
    "не пишите мне больше",
]

REVIEW = [
    # negated
    "Ne stoppez pas",
    "don't stop",
    "non stop",
    "nonstop",
    "stop pas",
    "ne m'arrêtez pas",
    "je ne veux pas me désinscrire",
    "don't take me off",
    "I don't want to unsubscribe",
    "je n'ai pas dit stop",
    # not first, not alone
    "je voudrais plus de sms de vous",
    "travaux 🛑 rue fermée",
    # an ordinary answer, or an opt-out
    "Je veux annuler",
    "end",
    "CANCEL",
    "non merci",
    "pas intéressé",
    # insults, refusals, a number that changed hands
    "sans façon",
    "spot",  # alone, a slip of the thumb
    # another's, regretted, asked about
    "ma sœur vous a dit stop",
    "Mon mari a répondu STOP à votre sms",
    "j'ai envoyé STOP par erreur",
    "oups, stop envoyé sans faire exprès",
    "Question : si je réponds stop je perds mes points ?",
    "dois-je répondre STOP ?",
    "Si je réponds désinscrivez-moi je perds mes points ?",
    # a complaint
    "Super, encore un sms inutile. Bravo.",
    "je refuse",
    # a slip before a name
    "tsop acme",
    "stpo maison lune",
    "Mauvais numéro",
    "Monsieur est décédé",
    # more text than an SMS holds is not waved through
    "x" * 2_001,
    "START" + " " * 2_000,
]

NONE = [
    "",
    "   ",
    "\u200b",
    "🙂",
    "👍👍",
    "top",
    "shop",
    "step",
    "strop",
    "slop",
    "stock",
    "hop",
    "C'est top !",
    # everyday things
    "Bonjour, Christophe",
    "au prochain arrêt de bus",
    "arrêt de bus",
    "je t'attends au stop",
    "Je veux annuler ma commande",
    "Mon arrêt maladie finit lundi",
    "Pouvez-vous me retirer l'article bleu de la commande",
    "suite à votre SMS je viens chercher ma commande n°4471",
    "ok",
    "merci",
    "je n'ai pas reçu mon colis",
    "Je n'ai pas reçu le sms de confirmation",
    "Je voudrais plus d'informations sur vos offres",
    "Pas de souci pour mardi",
    "Le code promo ne marche pas",
    # what loosens is never guessed
    "when does it start?",
    "start demain",
    "START ?",
    "reprendre rendez-vous",
    "5TART",
    "0UI",
    "OUI ?",
    "oui je viens à 14h",
    "oui mais demain",
]

CONTACT = ["CONTACT", "contact ?", "Contact svp", "CONTACT 36111", "AIDE", "HELP", "INFO", "qui êtes-vous ?"]
START = ["START", "START\n", "start", "REPRENDRE", "REPRISE", "UNSTOP", "Start svp", "START 36111", "𝐒𝐓𝐀𝐑𝐓"]
CONFIRM = ["OUI", "OUI\r\n", "oui", "Oui !", "oui merci", "OUI 👍", "YES"]

CASES = [
    *[("stop", text) for text in STOP],
    *[("review", text) for text in REVIEW],
    *[("none", text) for text in NONE],
    *[("contact", text) for text in CONTACT],
    *[("start", text) for text in START],
    *[("confirm", text) for text in CONFIRM],
]


@pytest.mark.parametrize(("intent", "text"), CASES, ids=[f"{i}-{ascii(t)[:40]}" for i, t in CASES])
def test_a_text_means_what_the_domain_table_says(intent: str, text: str) -> None:
    assert classify(text).intent == intent


@pytest.mark.parametrize(
    ("text", "rule", "score"),
    [
        ("STOP", "any-1:stop_first", 1.0),
        ("STOP ACME", "any-1:stop_first", 0.95),
        ("STOP ALL", "any-1:stop_all", 1.0),
        ("arrêtez", "fr-3:stop_alone", 1.0),
        ("tsop", "any-1:near_stop", 0.75),
        ("5T0P", "any-1:disguised_stop_first", 0.85),
        ("🛑", "any-1:stop_signs", 1.0),
        ("supprimez mes données", "fr-3:erase_phrases", 0.9),
        ("don't stop", "any-1:mentions_stop", 0.5),
        ("top", "any-1:none", 0.0),
    ],
)
def test_an_understanding_names_its_rule_and_how_sure_it_is(text: str, rule: str, score: float) -> None:
    understood = classify(text)

    assert (understood.rule, understood.score) == (rule, score)


def test_normalised_is_what_the_rules_saw() -> None:
    assert classify("  « Arrêtez ! »\nvos SMS").normalised == "arretez\nvos sms"


def test_look_alikes_are_read_only_when_asked_for() -> None:
    assert str(normalise("ST0P 36111")) == "st0p 36111"
    assert str(normalise("ST0P 36111", look_alikes=True)) == "stop 36111"


FILES = ("fr-1", "fr-2", *CURRENT)


def rules(lists: Lists) -> dict[str, Rule]:
    found = {name: getattr(lists, name) for name in lists.__struct_fields__}
    return {name: rule for name, rule in found.items() if isinstance(rule, Rule) and rule.words}


@pytest.mark.parametrize("file", FILES)
def test_every_rule_of_a_keyword_file_has_a_reason_and_known_sources(file: str) -> None:
    lists = load(file)

    assert lists.id == file
    told: list[tuple[str, Rule | Together]] = [*rules(lists).items()]
    told += [("stop_together", together) for together in lists.stop_together]
    for name, rule in told:
        assert rule.why, name
        assert rule.sources, name
        assert set(rule.sources) <= lists.sources.keys(), name


@pytest.mark.parametrize("file", FILES)
def test_the_words_of_a_keyword_file_are_in_the_form_normalisation_leaves(file: str) -> None:
    lists = load(file)
    together = {word for rule in lists.stop_together for group in (*rule.groups, rule.unless) for word in group}

    for name, words in [*[(n, r.words) for n, r in rules(lists).items()], ("stop_together", together)]:
        for word in words if not name.endswith("signs") else ():
            assert str(normalise(word)) == word, (name, word)


@pytest.mark.parametrize("file", CURRENT)
def test_lists_that_are_looked_up_by_word_hold_single_words(file: str) -> None:
    several = {
        "everyday",
        "mistakes",
        "regrets",
        "asks",
        "meanings",
        "occasions",
        "stop_all",
        "stop_whole",
        "review_alone",
        "stop_signs",
        "review_signs",
        "review",
        "courtesy",
        "wrote",
    }

    for name, rule in rules(load(file)).items():
        if name not in several and not name.endswith(("phrases", "idioms")):
            assert [word for word in rule.words if " " in word] == [], name
    for together in load(file).stop_together:
        assert [word for group in (*together.groups, together.unless) for word in group if " " in word] == []


@pytest.mark.parametrize(
    ("text", "language", "country", "intent"),
    [
        # END, CANCEL, QUIT: certain in the United States and Canada, a person's to read elsewhere
        ("END", None, "US", "stop"),
        ("cancel please", "en", "CA", "stop"),
        ("END", None, None, "review"),
        ("CANCEL", None, "FR", "review"),
        ("QUIT", "en", None, "review"),
        ("cancel tomorrow", "en", "US", "review"),
        ("cancel my order", "en", "US", "none"),
        # certain at home
        ("Alto", "es", None, "stop"),
        ("Alto", None, "MX", "stop"),
        ("Alto", None, None, "review"),
        ("pare", "pt", None, "stop"),
        # what tightens is read in every language, whoever writes
        ("BAJA", None, "FR", "stop"),
        ("abmelden", "fr", None, "stop"),
        ("توقف", None, None, "stop"),
        # what loosens only where it is at home
        ("SI", "es", None, "confirm"),
        ("SI", None, None, "none"),
        ("ja", None, "BE", "confirm"),
        ("ALTA", "es", None, "start"),
        ("ALTA", None, None, "none"),
        ("OUI", "de", None, "none"),
        ("YES", "de", None, "confirm"),
        ("START", "ar", None, "start"),
    ],
)
def test_country_and_language_decide_what_is_certain_and_what_loosens(
    text: str, language: str | None, country: str | None, intent: str
) -> None:
    assert classify(text, language=language, country=country).intent == intent


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("A aimé « ACME : -20% samedi. STOP au 36111 »", "none"),
        ("Ok merci\n> ACME : -30% ce samedi. STOP au 36111", "none"),
        ("ok pour mardi\n--\nACME. STOP au 36111", "none"),
        ("STOP\n\nLe 12 mars, ACME a écrit :\n> START", "stop"),
        ("> STOP", "stop"),
        ("OUI\n> START", "none"),
        ("Soldes ACME -30% ce week-end. STOP au 36111", "review"),
        ('vous dites "je ne veux plus de vos sms" ?', "review"),
    ],
)
def test_what_is_quoted_is_not_what_is_asked(text: str, intent: str) -> None:
    assert classify(text).intent == intent


@pytest.mark.parametrize(
    ("text", "concern"),
    [
        ("d'où tenez-vous mon numéro", "source"),
        ("qui vous a donné mon numéro ?", "source"),
        ("Quelles données avez-vous sur moi ?", "access"),
        ("send me a copy of my data", "access"),
        ("Mauvais numéro", "wrong_number"),
        ("je ne suis pas Mme Martin", "wrong_number"),
        ("je voudrais me réinscrire", "return"),
        ("J'ai envoyé STOP par erreur", "return"),
        ("Avez-vous effacé mes données ?", "erasure"),
        ("supprimez mon compte", "erasure"),
        ("Ne stoppez pas", "doubt"),
    ],
)
def test_a_right_is_held_for_a_person_with_its_concern(text: str, concern: str) -> None:
    understood = classify(text)

    assert (understood.intent, understood.concern) == ("review", concern)


def test_stop_to_all_brands_is_a_stop_to_everyone() -> None:
    for text in ("Stop toutes vos marques", "STOP à toutes vos enseignes svp", "stop all your brands"):
        assert classify(text).everyone, text
    assert not classify("STOP toutes vos marques sauf Acme").everyone


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("இனி செய்தி அனுப்ப வேண்டாம்", True),
        ("배송", True),
        ("நிறுத்து", True),
        ("lütfen artık aramayın beni", True),
        ("ma tb9awch tjiw liya walou", True),
        ("Durand Paul", False),
        ("12 rue des Lilas Lyon", False),
        ("paul.durand@exemple.fr", False),
        ("jarrive ds 5min", False),
        ("Merci Βασίλης", False),
        ("👍👍", False),
        ("شكرا جزيلا", False),
    ],
)
def test_a_text_with_hardly_a_known_word_is_unread(text: str, unread: bool) -> None:
    understood = classify(text)

    assert (understood.intent, understood.concern) == (("review", "unread") if unread else ("none", "doubt"))


def test_a_stop_tells_whether_it_asks_for_erasure_and_whether_it_names_everyone() -> None:
    assert classify("STOP et supprimez mes données").erasure
    assert classify("STOP ALL").everyone
    assert not classify("STOP").erasure
    assert not classify("STOP tous vos sms").everyone


def test_one_slip_is_a_letter_more_less_other_or_swapped() -> None:
    assert {"stoop", "stpo", "srop", "stopp"} <= slips("stop")
    assert not {"stop", "spot", "stock", "top"} & slips("stop")
