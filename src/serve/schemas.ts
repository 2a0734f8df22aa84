import { STAGES } from '../run/stages.ts';

// The server's requests and responses as JSON Schema. Requests are checked with it, responses are written with it, and the
// document at /openapi.json is made from it.

const share = { type: 'number', description: 'a probability, 0 to 1' } as const;
const text = { type: 'string' } as const;

export const FAILURE = {
  type: 'object',
  required: ['error'],
  properties: { error: { type: 'string', description: 'one sentence: what is wrong' } },
} as const;

/** @param maxLength characters of a question */
export function questionSchema(maxLength: number) {
  return {
    type: 'object',
    required: ['question'],
    additionalProperties: false,
    properties: {
      question: { type: 'string', minLength: 1, maxLength },
      documents: {
        type: 'array',
        description: 'documents for this question alone, in addition to those of the corpus',
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

export const ANSWERED_QUESTION = {
  type: 'object',
  required: ['question', 'answers'],
  properties: {
    question: text,
    answers: {
      type: 'array',
      description: 'best first, one from each block read',
      items: {
        type: 'object',
        required: ['answer', 'probability', 'retrieval', 'reading', 'title', 'document', 'before', 'after'],
        properties: {
          answer: text,
          probability: { ...share, description: 'of this answer among all spans of all blocks read' },
          retrieval: {
            ...share,
            description:
              'p(z|x) of its block among those read, by inner product, and by BM25 too with hybrid.weight',
          },
          reading: { ...share, description: 'p(y|z,x) of the answer among the spans of its block' },
          title: text,
          document: { type: 'string', description: 'id of the document' },
          before: { type: 'string', description: 'text of the passage before the answer' },
          after: { type: 'string', description: 'text of the passage after the answer' },
          extraDocument: {
            type: 'boolean',
            description: "true if the answer is from one of the question's documents",
          },
        },
      },
    },
    nullProbability: { ...share, description: 'of the null document' },
    truncated: { type: 'boolean', description: 'true if the question was too long and was truncated' },
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
      description: 'stages that have started, in their order',
      items: {
        type: 'object',
        required: ['stage', 'step', 'steps', 'figures'],
        properties: {
          stage: { type: 'string', enum: STAGES },
          step: { type: 'integer', description: 'the last step that was logged' },
          steps: { type: 'integer', description: 'steps in the settings' },
          figures: {
            type: 'object',
            description: 'metrics in the last line of its log',
            additionalProperties: { type: 'number' },
          },
        },
      },
    },
    underWay: {
      type: 'object',
      description: 'the command that is running in the run folder; absent if there is none',
      required: ['command', 'pid', 'host', 'since', 'alive', 'progress', 'refresher', 'queue'],
      properties: {
        command: { type: 'string' },
        pid: { type: 'integer' },
        host: { type: 'string' },
        since: { type: 'string', description: 'ISO 8601' },
        alive: {
          type: ['boolean', 'null'],
          description: 'false if its process has ended; null if it runs on another host',
        },
        progress: {
          type: ['object', 'null'],
          required: ['name', 'done', 'total', 'memory', 'time'],
          properties: {
            name: { type: 'string' },
            done: { type: 'number' },
            total: { type: 'number' },
            unit: { type: ['string', 'null'], description: 'what `rate` counts a second' },
            rate: { type: ['number', 'null'], description: 'units a second' },
            left: { type: ['number', 'null'], description: 'seconds left' },
            remark: { type: 'string' },
            memory: { type: 'number', description: 'bytes of memory of the process' },
            time: { type: 'string', description: 'ISO 8601: time of these values' },
          },
        },
        refresher: { type: ['integer', 'null'], description: 'id of the process that builds an index' },
        queue: {
          type: ['object', 'null'],
          description: 'the shards that workers embed for it',
          required: ['time', 'queue', 'snapshot', 'shards', 'left', 'failed', 'workers', 'leases'],
          properties: {
            time: { type: 'string', description: 'ISO 8601: time of these values' },
            host: { type: 'string', description: 'where the index is made' },
            pid: { type: 'integer' },
            queue: { type: 'string', description: 'address of the server' },
            snapshot: { type: 'string' },
            shards: { type: 'integer' },
            left: { type: 'integer', description: 'shards that the index still lacks' },
            failed: { type: 'integer', description: 'shards that no worker could make' },
            workers: { type: 'array', items: { type: 'string' }, description: 'all workers of the queue' },
            leases: {
              type: 'array',
              items: {
                type: 'object',
                properties: {
                  shard: { type: 'integer' },
                  worker: { type: 'string' },
                  seconds: { type: 'number', description: 'since its lease was renewed' },
                },
              },
            },
          },
        },
      },
    },
    answers: {
      type: 'object',
      required: ['ready'],
      properties: {
        ready: { type: 'boolean', description: 'whether a question can be answered now' },
        missing: { type: 'string', description: 'what is missing if it cannot' },
      },
    },
  },
} as const;
