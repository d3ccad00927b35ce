"""The small, ordinary English vocabulary by which `rule_scorer` finds noun phrases. Any word not listed is a noun."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


DEFINITE = _set("the this that these those his her its their")
DETERMINERS = DEFINITE - {"that"} | _set("a an some any each every both all another other no my our your")
NUMBERS = _set("one two three four five six seven eight nine ten eleven twelve dozen several many few various multiple")
CONNECTORS = _set("and or & / ,")
# Prepositions, pronouns, auxiliaries, conjunctions and adverbs: never inside a noun phrase.
CLOSED = _set("""
    in on at of to by for from with without near beside besides behind above below under underneath beneath over between
    among amongst through across along against around inside outside into onto upon off up down out away past toward
    towards atop amid beyond during before after since until like as than while when where why how if because but via
    except plus about yet outdoors indoors sideways forward next close nearby together apart ahead upside
    i you he she it we they me him them us himself herself itself themselves who whom whose which that what there here
    someone something anything everything
    is are was were be been being am has have having had do does did can could will would may might must should
    not very too also just only still quite almost most more less even then now again so
""")
SUBJECTS = _set("that which who what to i you he she it we they")  # after these a word that can be a verb is one
# Bare, these name no thing: "on the left", "the top of", "in front of".
PLACES = _set("left right top bottom front back side middle center centre background foreground edge end")

COLOURS = _set("""
    red orange yellow green blue purple pink brown black white gray grey beige tan gold silver cyan magenta teal violet
    turquoise maroon golden whitish reddish pinkish
""")
COLOUR_NOUNS = _set("orange gold silver")  # "an orange" is a thing, "an orange cat" is not
# Nouns that are adjectives before another: "a sky blue car", "a square red box".
SHADES = _set("light lime navy sky forest olive rose mint baby neon round square")
ADJECTIVES = COLOURS | _set("""
    large small big little tiny huge giant tall short long wide narrow thick thin low high deep vast massive
    old new young elderly modern vintage ancient rusty dirty clean wet dry shiny fluffy furry hairy puffy messy skinny
    empty full open broken worn torn fresh ripe hot cold warm sunny cloudy snowy grassy rocky sandy muddy lush
    dark bright pale vivid dull plain solid clear transparent colorful colourful multicolored metallic wooden woolen
    rectangular circular triangular flat soft heavy fancy pretty beautiful cute happy nice good simple elegant spacious
    same different identical single double lone
""")

# Verbs and past forms that are hardly ever nouns, and words that are verbs after a plural or with an -s after a noun.
VERBS = _set("""
    sit wear lay eat carry pull push contain throw bring take get go come wait enjoy prepare graze stare adorn surround
    overlook include sleep kneel bend float grow appear become keep put hang make give let see stay begin try depict
    open emit contrast follow accompany crouch gather lean hold say pour indicate want draw create
    sat stood held wore ate took went came made built lit hung seen shown taken kept flown seated written drawn
    tied stuck
""")
NOUN_VERBS = _set("""
    stand ride walk run play fly look rest drink jump swing catch use drive move show feature display cut face point
    smoke cross climb surf skate ski park pass race dance turn work touch feed wash cook swim stop reach chase
    share fill paint perch lie pose smile talk read serve watch hit travel
""")
ED_NOUNS = _set("moped bobsled flatbed hundred")
COMPOUND_PARTICIPLES = _set("covered capped lined filled shaped colored coloured sized themed tiled framed patterned")
ING_NOUNS = _set("""
    building ceiling railing flooring clothing wedding morning evening awning frosting pudding earring string king ring
    wing thing spring swing parking dining living recycling crossing painting lighting bedding writing lettering
""")
LY_NOUNS = _set("fly butterfly family jelly belly lily doily")

IRREGULAR_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "wolves": "wolf",
    "knives": "knife", "scarves": "scarf", "halves": "half",
}  # fmt: skip

SYNONYMS = [
    _set("couch sofa"), _set("tv television"), _set("bicycle bike"), _set("motorcycle motorbike"), _set("cup mug"),
    _set("airplane plane aeroplane"), _set("phone cellphone telephone"), _set("refrigerator fridge"),
    _set("car automobile"), _set("photo photograph"), _set("sphere ball"), _set("lady woman"), _set("guy man"),
    _set("kid child"), _set("rug carpet"),
]  # fmt: skip
KINDS = {
    "person": _set("man woman boy girl child baby player skier surfer snowboarder skateboarder rider"),
    "child": _set("boy girl baby"),
    "animal": _set("dog cat horse cow sheep goat bear elephant giraffe zebra lion tiger rabbit bird duck"),
    "dog": _set("puppy"),
    "cat": _set("kitten"),
    "bird": _set("duck goose parrot owl eagle pigeon seagull chicken"),
    "vehicle": _set("car bus truck van train motorcycle bicycle boat airplane"),
    "furniture": _set("chair table couch bed desk bench cabinet"),
    "fruit": _set("apple banana orange pear lemon strawberry"),
    "flower": _set("rose tulip lily daisy sunflower"),
}
