import { isUtf8 } from 'node:buffer';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { UserError } from '../../system/errors.ts';
import type { TfRecord } from './tfrecord.ts';

// tf.train.Example in protocol buffers' wire format (tensorflow/tensorflow, tensorflow/core/example/example.proto and
// feature.proto): Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }, and a Feature is one
// of BytesList = 1, FloatList = 2, Int64List = 3, each { repeated value = 1 }.

/** The requested features of a record: lists of bytes or of whole numbers. */
export interface TfExample {
  /** The only text of a feature. */
  text(name: string): string;
  /** The bytes of the only value of a feature. */
  bytes(name: string): Buffer;
  /** Whole numbers; none if the record lacks the feature, since an empty list may be left out. */
  integers(name: string): number[];
}

/** Reads the features `names` of an Example and skips all others. */
export function readTfExample({ bytes, where }: TfRecord, names: ReadonlySet<string>): TfExample {
  const texts = new Map<string, Buffer[]>();
  const integers = new Map<string, number[]>();
  try {
    for (const features of messages(bytes, 1)) {
      for (const entry of messages(features, 1)) {
        const name = Buffer.from(messages(entry, 1)[0] ?? []).toString('utf8');
        if (!names.has(name)) continue;
        for (const feature of messages(entry, 2)) {
          for (const list of messages(feature, 1)) texts.set(name, messages(list, 1).map(Buffer.from));
          for (const list of messages(feature, 3)) integers.set(name, int64List(list));
        }
      }
    }
  } catch {
    throw new UserError(`${where}: is not a tf.train.Example; check that the path is right`);
  }
  const one = (name: string): Buffer => {
    const values = texts.get(name) ?? [];
    if (values.length === 1) return values[0];
    throw new UserError(
      `${where}: holds ${values.length} texts under "${name}", not one; check that the path is right`,
    );
  };
  return {
    bytes: one,
    text(name) {
      const value = one(name);
      if (isUtf8(value)) return value.toString('utf8');
      throw new UserError(`${where}: "${name}" is not UTF-8 text; make the file again`);
    },
    integers: (name) => integers.get(name) ?? [],
  };
}

/** The bytes of every field `number` of a message, which are strings or messages themselves. */
function messages(bytes: Uint8Array, number: number): Uint8Array[] {
  const reader = new BinaryReader(bytes);
  const found: Uint8Array[] = [];
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field === number && wire === WireType.LengthDelimited) found.push(reader.bytes());
    else reader.skip(wire);
  }
  return found;
}

/** Values may be packed into one field or be in fields of their own. */
function int64List(bytes: Uint8Array): number[] {
  const reader = new BinaryReader(bytes);
  const values: number[] = [];
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field !== 1) reader.skip(wire);
    else if (wire === WireType.LengthDelimited) {
      const end = reader.uint32() + reader.pos;
      while (reader.pos < end) values.push(Number(reader.int64()));
    } else values.push(Number(reader.int64()));
  }
  return values;
}
