import { join } from 'node:path';

// A small corpus and settings for the sentence encoders in test/fixtures/sentence-transformers.

const FOLDERS = join(import.meta.dirname, '../fixtures/sentence-transformers');

/** Texts of documents in the words of these encoders' vocabulary. */
export const TEXTS = [
  'The old bridge was built of stone in May 1990.',
  'The river in the north. It was built in the 19th.',
  'A town of stone was built on a river in July 1790.',
  'Who was the river, who was the bridge.',
  'An old town. An old river. An old bridge in the north.',
  'The stone in the river was old in June 1890.',
];

/** Settings that fit the encoder of this name. */
export function encoderSettings(encoder: string): string[] {
  return [
    'model={layers: 2, hidden: 16, heads: 2, intermediate: 32, positions: 40, gelu: exact, dropout: 0, spanHidden: 8, maxSpanWidth: 3}',
    `model.initial=${join(FOLDERS, encoder)}`,
    'text={blockTokens: 24, sentenceTokens: 16, questionTokens: 16}',
    'index={kind: exact}',
    'refresh.mode=off',
  ];
}
