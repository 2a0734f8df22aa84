"""Names found by spaCy: reads a JSON list of texts on stdin and writes, for each, [start, end] of its names in UTF-16 units.

The kinds of OntoNotes that are names count; dates, numbers and amounts do not. OntoNotes counts "the" before a name to it,
CoNLL does not: it is left out.
"""

import json
import sys

import spacy

NAMES = set("PERSON NORP FAC ORG GPE LOC PRODUCT EVENT WORK_OF_ART LAW LANGUAGE".split())


def utf16(text, at):
    return len(text[:at].encode("utf-16-le")) // 2


def names(doc):
    for entity in doc.ents:
        start = entity.start_char
        if entity.label_ not in NAMES:
            continue
        if entity.text.lower().startswith("the "):
            start += 4
        yield [utf16(doc.text, start), utf16(doc.text, entity.end_char)]


nlp = spacy.load(sys.argv[1])
json.dump([list(names(doc)) for doc in nlp.pipe(json.load(sys.stdin))], sys.stdout)
