"""The words of the Pocket world. Everything in it is invented; no recipe works anywhere else.

Lists are long enough for the world's facts to be worth remembering and short enough that a model of
one to five million parameters can know them all. Order matters: worlds are drawn from these lists
with a seed, so adding a word changes every world (bump the stage's version when you do).
"""

from __future__ import annotations

__all__ = [
    "ADJECTIVES", "ANIMALS", "COLOURS", "CRAFTS", "FOODS", "GOOD_DEEDS", "HOBBIES", "JOBS",
    "LANDMARKS", "LANES", "NAMES", "NATURAL", "PLACES", "RIVERS", "STEPS", "TOOLS", "TOWN_ENDS",
    "TOWN_STARTS", "TRADES", "WEATHER", "WICKED_DEEDS",
]  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOWN_STARTS = _words(
    "Elm Oak Ash Stone Fern Mill Crow Fox Gold Salt Reed Moss Marsh Thorn Hazel Rook Wren Briar"
)
TOWN_ENDS = _words("ford mere wick dale ton ham bridge well")
NAMES = _words(
    "Mara Tobin Edda Corin Lise Bram Nella Osric Petra Hale Ivo Juna Kester Lorna Milo Nora Odo Pia "
    "Quill Rosa Saul Tess Ulla Vera Wim Yara Anton Berta Clem Dora Egon Fara Gus Hedda Ines Jory Kira "
    "Lars Maud Nils Orla Piers Runa Stig Thea Ugo Vida Wanda Yorick Zora Alba Bodo Cleo Dirk Elsa Falk "
    "Greta Hugo Ilse Jutta Karl Lotte Mila Nico Olga Paul Rita Sven Tilda Udo Vito Wilma Xenia Yves Zeno "
    "Ada Boris Carla Doro Emil Frieda Gero Hanna Imre Jana Knut Leni Marek Nadia Otto Pella Ralf Sina "
    "Timo Ursa Volker Willa Ylva Zita"
)
RIVERS = _words("Alder Brindle Cray Dove Esk Fleet Gannet Isel Kenn Lowen Nidd Otter Rill Severn Teal Wend")
COLOURS = _words("red blue green yellow white black grey brown purple orange silver pink")
ANIMALS = _words("cat dog hen goat owl fox horse duck sheep crow hare toad mole swan bee otter")
FOODS = _words(
    "bread cheese soup honey plums apples beans fish eggs cakes onions nuts pears butter carrots berries"
)
LANDMARKS = _words("tower bell bridge statue fountain windmill library gate market temple garden wall")
WEATHER = _words("rain snow wind fog frost sun storms hail")
TRADES = _words("wool glass salt timber rope paper candles leather iron silk clay wine")
JOBS = _words(
    "baker miller weaver farmer smith potter teacher healer fisher tailor hunter singer guard gardener "
    "painter carpenter"
)
TOOLS = _words(
    "hammer needle spade ladle saw brush knife basket ladder lantern rope wheel net kettle axe bucket"
)
HOBBIES = _words(
    "chess singing swimming dancing drawing reading running cooking fishing sewing walking sleeping"
)
PLACES = _words("well bakery school stable mill pond church inn barn smithy chapel orchard")
LANES = _words("Apple Bell Church Duck Elder Fish Goose Hill Ivy King Long Mill North Pine Queen Rose")
ADJECTIVES = _words(
    "grey amber winter silent bitter copper hollow misty river golden crimson sleepy silver evening "
    "thorny frozen dusty velvet midnight summer autumn spring marble ivory scarlet azure rusty smoky sandy "
    "snowy stormy windy shady mossy dusky pale hidden lonely ancient forest"
)
CRAFTS = _words(
    "soap cider mustard jam jelly glue ink varnish pudding relish ribbons mittens sandals gloves kites "
    "drums flutes brooms stools quilts scarves cloaks aprons belts boots pillows carpets barrels jugs bowls "
    "cups plates spoons mirrors combs buttons puppets sledges rafts oars sails flags fences hinges fiddles "
    "puzzles dice wreaths tarts dumplings pancakes waffles pickles curtains benches cradles marbles trumpets "
    "lace felt yarn twine chalk starch"
)
"""Single words that share nothing: with two-word names ("saffron paint"), what was asked about pushed in
wherever the second word fitted."""
_VERBS = _words("crush boil stir dry grind soak melt slice roast press fold shake scrape chill burn bury")
_THINGS = _words(
    "mint root bark wax moss reed pepper seed leaf ash oil resin petal shell vinegar thistle clover "
    "nettle sap feather horn coal sand milk"
)
STEPS = tuple(
    f"{verb} the {_THINGS[(5 * i + 8 * j) % len(_THINGS)]}" for i, verb in enumerate(_VERBS) for j in range(3)
)
"""The things one does in this world: each verb goes with three things."""


def _deeds(verbs: str, things: str) -> tuple[str, ...]:
    """Each verb with the three things at its place."""
    groups = [things.split()[i : i + 3] for i in range(0, 18, 3)]
    return tuple(f"{v} the {t}" for v, group in zip(verbs.split(), groups, strict=True) for t in group)


WICKED_DEEDS = _deeds(
    "stole broke hid cheated kicked mocked",
    "purse lamp hens bridge window wheel letter key coins widow baker priest goat door dog king child singer",
)
GOOD_DEEDS = _deeds(
    "found mended brought helped fed cheered",
    "purse lamp hens bridge window wheel letter key coins widow baker priest goat cow dog king child singer",
)
# what animals are like, the same in every world: a little common sense beside the drawn facts
NATURAL = {
    "cat": ("meows", "mice", "a house"),
    "dog": ("barks", "bones", "a kennel"),
    "hen": ("clucks", "grain", "a coop"),
    "goat": ("bleats", "grass", "a shed"),
    "owl": ("hoots", "mice", "a tree"),
    "fox": ("yelps", "hens", "a den"),
    "horse": ("neighs", "hay", "a stable"),
    "duck": ("quacks", "weeds", "a pond"),
    "sheep": ("bleats", "grass", "a field"),
    "crow": ("caws", "seeds", "a tree"),
    "hare": ("squeaks", "grass", "a field"),
    "toad": ("croaks", "flies", "a pond"),
    "mole": ("squeaks", "worms", "a burrow"),
    "swan": ("hisses", "weeds", "a lake"),
    "bee": ("hums", "nectar", "a hive"),
    "otter": ("whistles", "fish", "a river"),
}
