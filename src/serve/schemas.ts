import { STAGES } from '../run/folder.ts';

// What the server takes and gives, as JSON Schema: requests are checked by it, answers are written by it, and the
// document at /openapi.json is made of it.

const share = { type: 'number', description: 'a probability, 0 to 1' } as const;
const text = { type: 'string' } as const;

export const FAILURE = {
  type: 'object',
  required: ['error'],
  properties: { error: { type: 'string', description: 'one sentence: what is wrong' } },
} as const;

/** @param longest characters of a question */
export function questionSchema(longest: number) {
  return {
    type: 'object',
    required: ['question'],
    additionalProperties: false,
    properties: {
      question: { type: 'string', minLength: 1, maxLength: longest },
      openBook: {
        type: 'array',
        description: 'documents for this question alone, beside those of the corpus',
        maxItems: 100,
        items: {
          type: 'object',
          required: ['title', 'text'],
          additionalProperties: false,
          properties: { title: text, text },
        },
      },
    },
  } as const;
}

export const ASKED = {
  type: 'object',
  required: ['question', 'answers'],
  properties: {
    question: text,
    answers: {
      type: 'array',
      description: 'best first, one of each block read',
      items: {
        type: 'object',
        required: ['answer', 'probability', 'retrieval', 'reading', 'title', 'document', 'before', 'after'],
        properties: {
          answer: text,
          probability: { ...share, description: 'of this answer among all spans of all blocks read' },
          retrieval: { ...share, description: 'p(z|x) of its block among those read' },
          reading: { ...share, description: 'p(y|z,x) of the answer among the spans of its block' },
          title: text,
          document: { type: 'string', description: 'id of the document' },
          before: { type: 'string', description: 'what stands before the answer in its passage' },
          after: { type: 'string', description: 'what stands behind the answer in its passage' },
          openBook: {
            type: 'boolean',
            description: "true where it stands in one of the question's documents",
          },
        },
      },
    },
    nullProbability: { ...share, description: 'of the null document' },
    cut: { type: 'boolean', description: 'true where the question was too long: its end was not read' },
    retrievalUtility: {
      type: 'number',
      description: 'log p(y|z,x) - log p(y|null document,x) of the answer, nats',
    },
  },
} as const;

export const STATUS = {
  type: 'object',
  required: ['run', 'stages', 'answers'],
  properties: {
    run: { type: 'string', description: "name of the run's folder" },
    stages: {
      type: 'array',
      description: 'stages begun, in their order',
      items: {
        type: 'object',
        required: ['stage', 'step', 'steps', 'figures'],
        properties: {
          stage: { type: 'string', enum: STAGES },
          step: { type: 'integer', description: 'the last one logged' },
          steps: { type: 'integer', description: 'that the settings ask for' },
          figures: {
            type: 'object',
            description: 'of the last line of its log',
            additionalProperties: { type: 'number' },
          },
        },
      },
    },
    underWay: {
      type: 'object',
      description: 'the command that works in the run folder; absent where none does',
      required: ['command', 'pid', 'host', 'since', 'alive', 'progress', 'refresher'],
      properties: {
        command: { type: 'string' },
        pid: { type: 'integer' },
        host: { type: 'string' },
        since: { type: 'string', description: 'ISO 8601' },
        alive: {
          type: ['boolean', 'null'],
          description: 'false where its process has ended; null where it is one of another host',
        },
        progress: {
          type: ['object', 'null'],
          required: ['name', 'done', 'total', 'memory', 'time'],
          properties: {
            name: { type: 'string' },
            done: { type: 'number' },
            total: { type: 'number' },
            unit: { type: ['string', 'null'], description: 'what `rate` counts' },
            rate: { type: ['number', 'null'], description: 'a second' },
            left: { type: ['number', 'null'], description: 'seconds' },
            remark: { type: 'string' },
            memory: { type: 'number', description: 'bytes that the process holds' },
            time: { type: 'string', description: 'ISO 8601: when this was so' },
          },
        },
        refresher: { type: ['integer', 'null'], description: 'process that builds an index' },
      },
    },
    answers: {
      type: 'object',
      required: ['ready'],
      properties: {
        ready: { type: 'boolean', description: 'whether a question can be answered now' },
        missing: { type: 'string', description: 'what is missing where it cannot' },
      },
    },
  },
} as const;
