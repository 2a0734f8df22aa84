import { statSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import { closest } from 'fastest-levenshtein';
import { unpackedName } from '../datasets/bytes.ts';
import { CATALOGUE, type DataFile } from '../datasets/catalogue.ts';
import { fetchFile, type Placed, placeFile } from '../datasets/download.ts';
import { readQuestions } from '../datasets/questions.ts';
import { isDevQuestion } from '../datasets/resplit.ts';
import { UserError } from '../system/errors.ts';
import { writeFileAtomic } from '../system/files.ts';
import { say } from '../system/progress.ts';
import { stopMeans } from '../system/stop.ts';

export interface GetOptions {
  /** Folder in which the data set gets its own folder. */
  to: string;
  /** Address of a folder that has the files under their own names. */
  mirror?: string;
  /** A file, or a folder with files, on this machine. */
  from?: string;
  /** The Parquet files of the Hugging Face Hub instead of the official files. */
  hub?: boolean;
}

/** Prints the source and licence of a data set, then downloads it or copies it to its place. */
export async function getData(
  name: string,
  { to, mirror, from, hub = false }: GetOptions,
): Promise<Placed[]> {
  if (!Object.hasOwn(CATALOGUE, name)) {
    throw new UserError(
      `${name}: no such data set; did you mean "${closest(name, Object.keys(CATALOGUE))}"? "realm data list" shows all`,
    );
  }
  const set = CATALOGUE[name];
  const { what, licence } = set;
  if (hub && set.hub === undefined) {
    const known = Object.keys(CATALOGUE).filter((one) => CATALOGUE[one].hub !== undefined);
    throw new UserError(
      `${name}: realm knows no files of the Hugging Face Hub for it, only for ${known.join(', ')}; leave out --hub`,
    );
  }
  const files = hub ? set.hub! : set.files;
  const dir = join(to, name);
  say(`${name}: ${what}`);
  say(`licence: ${licence}`);
  stopMeans('what was fetched is kept, and the same command resumes');
  const placed: Placed[] = [];
  for (const file of files) {
    const address = mirror === undefined ? file.url : `${mirror.replace(/\/$/, '')}/${file.name}`;
    const local = from === undefined ? undefined : localFile(from, file, files.length);
    if (from !== undefined && local === undefined) continue;
    say(`${file.name}: ${size([file])}, from ${local ?? address}`);
    const one = local ? await placeFile(file, local, dir) : await fetchFile({ ...file, url: address }, dir);
    if (file.sha256 === undefined) {
      say(`${file.name}: no checksum is published to compare; its SHA-256 is ${one.sha256}`);
    }
    placed.push(one);
  }
  if (placed.length === 0) {
    throw new UserError(
      `${from}: has none of ${files.map((file) => file.name).join(', ')}; pass such a file, or a folder with them`,
    );
  }
  return placed;
}

/** The local copy of a file: `from` itself, whatever its name, if only one file is wanted; otherwise the file of that name. */
function localFile(from: string, { name }: DataFile, wanted: number): string | undefined {
  const found = statSync(from, { throwIfNoEntry: false });
  if (!found) throw new UserError(`${from}: no such file; pass the file or the folder with the data`);
  if (!found.isDirectory()) return wanted === 1 || basename(from) === name ? from : undefined;
  const path = join(from, name);
  return statSync(path, { throwIfNoEntry: false }) ? path : undefined;
}

/** Counts of the two files that a set of training questions was split into. */
export interface Resplit {
  train: string;
  dev: string;
  trainQuestions: number;
  devQuestions: number;
}

/**
 * Splits training questions of any format into a training and a dev set, two files of JSONL in the folder `to`.
 * @param parts the dev set is one of so many parts; with 10 the sets are ORQA's
 */
export async function resplitQuestions(file: string, to: string, parts = 10): Promise<Resplit> {
  const questions = await readQuestions(file);
  const { train, dev } = resplitFiles(file, to);
  const write = (path: string, isDev: boolean) => {
    const chosen = questions.filter(({ question }) => isDevQuestion(question, parts) === isDev);
    const lines = chosen.map(({ question, answers, answerKind, passageId }) =>
      JSON.stringify({ question, answer: answers, answer_kind: answerKind, passage_id: passageId }),
    );
    writeFileAtomic(path, lines.map((line) => `${line}\n`).join(''));
    return chosen.length;
  };
  return { train, dev, trainQuestions: write(train, false), devQuestions: write(dev, true) };
}

export function size(files: readonly DataFile[]): string {
  if (files.some((file) => file.bytes === undefined)) return 'size not published';
  const bytes = files.reduce((sum, file) => sum + file.bytes!, 0);
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** The paths, in the folder `to`, of the two files that a file of questions is split into. */
export function resplitFiles(file: string, to: string): { train: string; dev: string } {
  const stem = unpackedName(basename(file));
  const name = basename(stem, extname(stem));
  return { train: join(to, `${name}.resplit.train.jsonl`), dev: join(to, `${name}.resplit.dev.jsonl`) };
}
