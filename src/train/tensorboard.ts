import { appendFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { maskedCrc } from '../datasets/formats/tfrecord.ts';
import type { JsonLines } from '../run/folder.ts';
import { explainWrite, makeFolder } from '../system/files.ts';

// TensorBoard's event files: TFRecords of tensorflow.Event in protocol buffers' wire format (tensorflow/tensorflow,
// tensorflow/core/util/event.proto and framework/summary.proto):
//   Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7 }
//   Summary { repeated Value value = 1 }   Value { string tag = 1; float simple_value = 2 }
//   SessionLog { status = 1 (START = 1) }

const NAME = /^events\.out\.tfevents\.(\d+)\./;

/**
 * A stage's metrics for TensorBoard: every number of a record except `step` becomes a scalar of that name, and each
 * record is written to the file when `write` returns. Each process writes its own file, created with its first record, so
 * nothing follows a record that a kill truncated. The file starts with SessionLog.START, which makes TensorBoard
 * (event_accumulator.py) ignore events of earlier files for steps beyond `done`, since these steps are done again.
 */
export function eventFile(dir: string, done: number): JsonLines {
  let path: string | undefined;
  try {
    makeFolder(dir); // not in `begin`: a run folder that was moved away in the meantime must not be created again
  } catch (error) {
    throw explainWrite(dir, error);
  }
  const begin = () => {
    const times = readdirSync(dir).flatMap((name) => Number(NAME.exec(name)?.[1] ?? []));
    // TensorBoard reads the files of a folder in the order of their names; the clock may have been set back in between.
    const time = Math.max(Math.floor(Date.now() / 1000), ...times.map((t) => t + 1));
    path = join(dir, `events.out.tfevents.${String(time).padStart(10, '0')}.${hostname()}`);
    const version = event().tag(3, WireType.LengthDelimited).string('brain.Event:2');
    const start = event(done + 1)
      .tag(7, WireType.LengthDelimited)
      .fork()
      .tag(1, WireType.Varint)
      .int32(1)
      .join();
    writeFileSync(path, Buffer.concat([framed(version), framed(start)]), { flag: 'wx' });
    return path;
  };
  if (done === 0) forget(dir);
  return {
    write(record) {
      const { step, ...metrics } = record as Record<string, unknown> & { step: number };
      const writer = event(step).tag(5, WireType.LengthDelimited).fork();
      for (const [name, value] of Object.entries(metrics)) {
        if (typeof value !== 'number') continue;
        writer.tag(1, WireType.LengthDelimited).fork();
        writer.tag(1, WireType.LengthDelimited).string(name);
        writer.tag(2, WireType.Bit32).float(Math.fround(value));
        writer.join();
      }
      try {
        path ??= begin();
        appendFileSync(path, framed(writer.join()));
      } catch (error) {
        throw explainWrite(path ?? dir, error);
      }
    },
  };
}

/** Removes the event files when a stage starts from scratch. */
function forget(dir: string): void {
  try {
    for (const name of readdirSync(dir)) if (NAME.test(name)) rmSync(join(dir, name));
  } catch {} // no folder yet; the next file's START invalidates files that cannot be removed
}

function event(step?: number): BinaryWriter {
  const writer = new BinaryWriter().tag(1, WireType.Bit64).double(Date.now() / 1000);
  return step === undefined ? writer : writer.tag(2, WireType.Varint).int64(step);
}

/** As a TFRecord: the length (u64) and its checksum, the bytes and theirs. */
function framed(message: BinaryWriter): Buffer {
  const bytes = Buffer.from(message.finish());
  const record = Buffer.alloc(12 + bytes.length + 4);
  record.writeBigUInt64LE(BigInt(bytes.length));
  record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
  bytes.copy(record, 12);
  record.writeUInt32LE(maskedCrc(bytes), 12 + bytes.length);
  return record;
}
