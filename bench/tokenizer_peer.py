"""Hugging Face's BERT tokenizer for `npm run bench:prepare`: for every line on stdin it tokenises all texts once, on one
thread, and prints the number of tokens and the seconds of processor time."""

import json
import sys
import time

from tokenizers import BertWordPieceTokenizer

tokenizer = BertWordPieceTokenizer(sys.argv[1], lowercase=True)
with open(sys.argv[2], encoding="utf-8") as file:
    texts = json.load(file)
for _ in sys.stdin:
    start = time.process_time()
    tokens = 0
    for first in range(0, len(texts), 256):
        batch = tokenizer.encode_batch(texts[first : first + 256], add_special_tokens=False)
        tokens += sum(len(encoding) for encoding in batch)
    print(json.dumps({"tokens": tokens, "seconds": time.process_time() - start}), flush=True)
