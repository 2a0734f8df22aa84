import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Scalars by name: steps and values, in the order written. */
export type Scalars = Record<string, [step: number, value: number][]>;

/**
 * What TensorBoard shows of a folder of event files, decoded by hand: all files in the order of their names, where a
 * SessionLog.START discards earlier events of its step and later ones (tensorboard 2.21.0, event_accumulator.py, _Purge).
 */
export function readEvents(dir: string): Scalars {
  const scalars: Scalars = {};
  for (const name of existsSync(dir) ? eventFiles(dir) : []) {
    for (const event of records(readFileSync(join(dir, name)))) {
      const fields = fieldsOf(event);
      const step = Number(fields.get(2)?.[0] ?? 0);
      for (const log of fields.get(7) ?? []) {
        if (fieldsOf(log as Buffer).get(1)?.[0] !== 1n) continue;
        for (const key of Object.keys(scalars)) scalars[key] = scalars[key].filter(([s]) => s < step);
      }
      for (const summary of fields.get(5) ?? []) {
        for (const value of fieldsOf(summary as Buffer).get(1) ?? []) {
          const { tag, number } = scalar(value as Buffer);
          scalars[tag] ??= [];
          scalars[tag].push([step, number]);
        }
      }
    }
  }
  return scalars;
}

function eventFiles(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => name.startsWith('events.out.tfevents.'))
    .sort();
}

function scalar(value: Buffer): { tag: string; number: number } {
  const fields = fieldsOf(value);
  return {
    tag: (fields.get(1)![0] as Buffer).toString('utf8'),
    number: (fields.get(2)![0] as Buffer).readFloatLE(),
  };
}

/** The records up to the first incomplete one. Another test compares the checksums with another writer's file. */
function* records(file: Buffer): Generator<Buffer> {
  for (let at = 0; at + 12 <= file.length; ) {
    const end = at + 12 + Number(file.readBigUInt64LE(at));
    if (end + 4 > file.length) return;
    yield file.subarray(at + 12, end);
    at = end + 4;
  }
}

/** Fields of a message by number: varints as numbers, other fields as bytes. */
function fieldsOf(message: Buffer): Map<number, (bigint | Buffer)[]> {
  const fields = new Map<number, (bigint | Buffer)[]>();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const tag = Number(varint());
    const wire = tag & 7;
    let value: bigint | Buffer;
    if (wire === 0) value = varint();
    else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
      value = message.subarray(at, at + length);
      at += length;
    }
    fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), value]);
  }
  return fields;
}
