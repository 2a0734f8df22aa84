import { gunzipSync, gzipSync } from 'node:zlib';
import type { Random } from '../../../src/random.ts';

/** Changes a file's bytes; undefined if this mutation finds nothing to change. */
export type Mutation = (bytes: Buffer, random: Random) => Buffer | undefined;
export type Mutations = Record<string, Mutation>;

// ---------------------------------------------------------------------------------------------------- any file

function replaced(bytes: Buffer, at: number, length: number, by: Uint8Array): Buffer {
  return Buffer.concat([bytes.subarray(0, at), by, bytes.subarray(at + length)]);
}

function noise(length: number, random: Random): Buffer {
  return Buffer.from(Array.from({ length }, () => random.int(256)));
}

function flipped(bytes: Buffer, random: Random, times: number): Buffer {
  const out = Buffer.from(bytes);
  for (let i = 0; i < times; i++) out[random.int(out.length)] ^= 1 << random.int(8);
  return out;
}

const cutAt =
  (from: number, to: number): Mutation =>
  (bytes, random) =>
    bytes.subarray(0, Math.floor(bytes.length * (from + (to - from) * random.float())));

export const ANY: Mutations = {
  'cut in the first tenth': cutAt(0, 0.1),
  'a bit flipped': (bytes, random) => flipped(bytes, random, 1),
  'cut in the middle': cutAt(0.1, 0.9),
  'a bit flipped in the first 64 bytes': (bytes, random) =>
    Buffer.concat([flipped(bytes.subarray(0, 64), random, 1), bytes.subarray(64)]),
  'random bytes of the same length': (bytes, random) => noise(bytes.length, random),
  'cut in the last tenth': cutAt(0.9, 1),
  'many bits flipped': (bytes, random) => flipped(bytes, random, 2 + random.int(30)),
  empty: () => Buffer.alloc(0),
  'the last byte missing': (bytes) => bytes.subarray(0, -1),
  'one byte': (bytes) => bytes.subarray(0, 1),
  'zeros of the same length': (bytes) => Buffer.alloc(bytes.length),
  'ones of the same length': (bytes) => Buffer.alloc(bytes.length, 255),
  'random bytes of another length': (bytes, random) => noise(1 + random.int(2 * bytes.length), random),
  'a part overwritten': (bytes, random) => {
    const length = 1 + random.int(Math.max(1, bytes.length >> 2));
    return replaced(bytes, random.int(bytes.length - length + 1), length, noise(length, random));
  },
  'a part inserted': (bytes, random) =>
    replaced(bytes, random.int(bytes.length + 1), 0, noise(1 + random.int(100), random)),
  'a part missing': (bytes, random) => {
    const length = 1 + random.int(Math.max(1, bytes.length >> 2));
    return replaced(bytes, random.int(bytes.length - length + 1), length, Buffer.alloc(0));
  },
  'a part twice': (bytes, random) => {
    const length = 1 + random.int(Math.max(1, bytes.length >> 2));
    const from = random.int(bytes.length - length + 1);
    return replaced(bytes, from, 0, bytes.subarray(from, from + length));
  },
  'bytes behind the end': (bytes, random) => Buffer.concat([bytes, noise(1 + random.int(64), random)]),
  twice: (bytes) => Buffer.concat([bytes, bytes]),
  'its halves exchanged': (bytes) =>
    Buffer.concat([bytes.subarray(bytes.length >> 1), bytes.subarray(0, bytes.length >> 1)]),
  'another kind of file': (_, random) =>
    random.pick([
      gzipSync('{"text": "One."}\n'),
      Buffer.from('PK\x03\x04 a zip file'),
      Buffer.from('%PDF-1.7\n'),
      Buffer.from('<!DOCTYPE html><html><body>404 Not Found</body></html>\n'),
      Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n'),
      Buffer.from('\x7fELF\x02\x01\x01'),
    ]),
};

// ---------------------------------------------------------------------------------------------------- text

function insertedAnywhere(what: (random: Random) => Uint8Array): Mutation {
  return (bytes, random) => replaced(bytes, random.int(bytes.length + 1), 0, what(random));
}

export const TEXT: Mutations = {
  'invalid UTF-8 within': insertedAnywhere((random) =>
    Buffer.from(
      random.pick([[0xff], [0xc0, 0x80], [0xe2, 0x82], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0x80]]),
    ),
  ),
  'a byte order mark before': (bytes) => Buffer.concat([Buffer.from('\uFEFF'), bytes]),
  'CR LF': (bytes) => Buffer.from(bytes.toString().replaceAll('\n', '\r\n')),
  'CR alone': (bytes) => Buffer.from(bytes.toString().replaceAll('\n', '\r')),
  'the first line alone': (bytes) => Buffer.from(bytes.toString().split('\n')[0]),
  'a line missing': (bytes, random) => {
    const lines = bytes.toString().split('\n');
    lines.splice(random.int(lines.length), 1);
    return Buffer.from(lines.join('\n'));
  },
  'a line twice': (bytes, random) => {
    const lines = bytes.toString().split('\n');
    const at = random.int(lines.length - 1);
    lines.splice(at, 0, lines[at]);
    return Buffer.from(lines.join('\n'));
  },
  'UTF-16': (bytes) => Buffer.from(`\uFEFF${bytes.toString()}`, 'utf16le'),
  'Latin-1': (bytes) => Buffer.from(bytes.toString().replace(/[aeiou]/, 'é'), 'latin1'),
  'a NUL character within': insertedAnywhere(() => Buffer.from([0])),
  'blank lines': (bytes) => Buffer.from(`\n\n${bytes.toString().replaceAll('\n', '\n \n')}\n\n`),
  'a line of 20 MiB': () => Buffer.alloc(20 << 20, 'a'),
  'line feeds alone': () => Buffer.alloc(1 << 20, '\n'),
  'an open bracket 300,000 times': () => Buffer.from('['.repeat(300_000)),
};

// ---------------------------------------------------------------------------------------------------- JSON

const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

/** Values that a reader may not expect, as JSON text. */
const VALUES = [
  'null',
  'true',
  'false',
  '-1',
  '0',
  '1',
  '2',
  '0.5',
  '1e999',
  '-1e999',
  '1e308',
  '1e9',
  '4294967296',
  '9007199254740993',
  '123456789012345678901234567890',
  'NaN',
  'Infinity',
  '""',
  '" "',
  '"0"',
  '"1e9"',
  '"../../../../etc/passwd"',
  '"/etc/passwd"',
  '"a\\u0000b"',
  '"\\ud800"',
  '"\\udc00 half"',
  `"${'x'.repeat(100_000)}"`,
  '[]',
  '{}',
  '[null]',
  '[[1, 2]]',
  '[-1, 5]',
  '[[5, 1]]',
  '{"__proto__": {"polluted": 1}}',
  '{"constructor": {"prototype": {"polluted": 1}}}',
  '{"toString": null}',
  deep(5000),
  deep(100_000),
];

/** Positions in a JSON tree, each as the keys that lead there. */
function placesOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, held]) => placesOf(held, [...path, key]))];
}

const MARK = '\uE000';

/** The JSON of a tree with the value at `path` written as `text`. */
function withRaw(value: unknown, path: string[], text: string, indent?: number): string {
  const copy = structuredClone({ root: value }) as Record<string, unknown>;
  let node = copy;
  for (const key of ['root', ...path].slice(0, -1)) node = node[key] as Record<string, unknown>;
  node[['root', ...path].at(-1)!] = MARK;
  return JSON.stringify(copy.root, null, indent).replace(`"${MARK}"`, () => text);
}

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

/** Corrupts the JSON tree in a file. */
function onTree(change: (tree: object, random: Random, places: string[][]) => string | undefined): Mutation {
  return (bytes, random) => {
    const tree = parsed(bytes);
    if (typeof tree !== 'object' || tree === null) return undefined;
    const text = change(tree, random, placesOf(tree));
    return text === undefined ? undefined : Buffer.from(text);
  };
}

function without(tree: unknown, path: string[]): unknown {
  const copy = structuredClone(tree) as Record<string, unknown>;
  let node = copy;
  for (const key of path.slice(0, -1)) node = node[key] as Record<string, unknown>;
  if (Array.isArray(node)) node.splice(Number(path.at(-1)), 1);
  else delete node[path.at(-1)!];
  return copy;
}

function valueAt(tree: unknown, path: string[]): unknown {
  return path.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], tree);
}

const objectsOf = (tree: unknown, places: string[][]) =>
  places.filter((path) => {
    const value = valueAt(tree, path);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  });

const TREE: Mutations = {
  'another value': onTree((tree, random, places) =>
    withRaw(tree, random.pick(places.slice(1)), random.pick(VALUES)),
  ),
  'a value missing': onTree((tree, random, places) =>
    JSON.stringify(without(tree, random.pick(places.slice(1)))),
  ),
  'a number changed': onTree((tree, random, places) => {
    const numbers = places.filter((path) => typeof valueAt(tree, path) === 'number');
    if (numbers.length === 0) return undefined;
    const at = random.pick(numbers);
    const n = valueAt(tree, at) as number;
    return withRaw(
      tree,
      at,
      String(random.pick([-n - 1, n + 1, n - 1, n * 2, n * 1e6 + 7, n + 0.5, 2 ** 31, 2 ** 53, -0])),
    );
  }),
  'a key twice': onTree((tree, random, places) => {
    const at = random.pick(objectsOf(tree, places));
    const object = valueAt(tree, at) as object;
    const key = random.pick(Object.keys(object));
    if (key === undefined) return undefined;
    const text = JSON.stringify(object).replace(
      '{',
      () => `{${JSON.stringify(key)}: ${random.pick(VALUES)}, `,
    );
    return at.length === 0 ? text : withRaw(tree, at, text);
  }),
  'another key beside': onTree((tree, random, places) => {
    const at = random.pick(objectsOf(tree, places));
    const key = random.pick(['__proto__', 'constructor', 'more', '', '../x', 'toString', '\u0000']);
    const text = JSON.stringify(valueAt(tree, at)).replace(
      '{',
      () =>
        `{${JSON.stringify(key)}: ${random.pick(VALUES)}${Object.keys(valueAt(tree, at) as object).length ? ', ' : ''}`,
    );
    return at.length === 0 ? text : withRaw(tree, at, text);
  }),
  'a string changed': onTree((tree, random, places) => {
    const strings = places.filter((path) => typeof valueAt(tree, path) === 'string');
    if (strings.length === 0) return undefined;
    const at = random.pick(strings);
    const text = valueAt(tree, at) as string;
    return withRaw(
      tree,
      at,
      JSON.stringify(
        random.pick([
          `${text}x`,
          text.slice(1),
          `../${text}`,
          `/${text}`,
          text.toUpperCase(),
          text.repeat(1000),
          `${text}\u0000`,
        ]),
      ),
    );
  }),
};

export const JSON_FILE: Mutations = {
  ...TREE,
  'other white space': onTree((tree) => JSON.stringify(tree, null, 7)),
  'a bare value': (_, random) => Buffer.from(random.pick(VALUES)),
  'a comma too many': (bytes) => Buffer.from(bytes.toString().replace(/\}\s*$/, ',}')),
};

/** The same for one line of a JSONL file, and mutations only for lines. */
export const JSON_LINES: Mutations = {
  ...Object.fromEntries(Object.entries(TREE).map(([name, mutation]) => [name, onLine(mutation)])),
  'a line that is no object': onLine((_, random) => Buffer.from(random.pick(VALUES))),
  'a long text': onLine(withText('Osk ran in 1812 to Drost. '.repeat(40_000))),
  'a long word': onLine(withText('x'.repeat(2_000_000))),
};

/** The line with another text or question. */
function withText(text: string): Mutation {
  return (bytes) => {
    const value = parsed(bytes) as Record<string, unknown> | undefined;
    const key = value && ['text', 'question'].find((k) => k in value);
    return key === undefined ? undefined : Buffer.from(JSON.stringify({ ...value, [key]: text }));
  };
}

function onLine(mutation: Mutation): Mutation {
  return (bytes, random) => {
    const lines = bytes.toString().split('\n').filter(Boolean);
    if (lines.length === 0) return undefined;
    const at = random.int(lines.length);
    const changed = mutation(Buffer.from(lines[at]), random);
    if (!changed) return undefined;
    lines[at] = changed.toString();
    return Buffer.from(`${lines.join('\n')}\n`);
  };
}

// ---------------------------------------------------------------------------------------------------- gzip

const bomb = (fill: string) => {
  let made: Buffer | undefined;
  return () => {
    made ??= gzipSync(Buffer.alloc(256 << 20, fill), { level: 1 });
    return made;
  };
};

export const GZIP: Mutations = {
  'a bomb of one line': bomb('x'),
  'a bomb of blank lines': bomb('\n'),
  'not compressed': (bytes) => gunzipSync(bytes),
  'in two members': (bytes) => {
    const text = gunzipSync(bytes);
    const at = text.indexOf(10) + 1;
    return Buffer.concat([gzipSync(text.subarray(0, at)), gzipSync(text.subarray(at))]);
  },
  ...Object.fromEntries(
    ['invalid UTF-8 within', 'CR LF', 'a line missing', 'a NUL character within'].map((name) => [
      `compressed: ${name}`,
      (bytes: Buffer, random: Random) => gzipSync(TEXT[name](gunzipSync(bytes), random)!),
    ]),
  ),
  'compressed: another value': (bytes, random) =>
    gzipSync(JSON_LINES['another value'](gunzipSync(bytes), random)!),
};

// ---------------------------------------------------------------------------------------------------- YAML

const YAML_VALUES = [
  ...VALUES.filter((value) => value.length < 1000),
  '.inf',
  '-.inf',
  '.nan',
  '1e400',
  '0x7fffffff',
  '0o17',
  '!!binary aGVsbG8=',
  '!!set {a, b}',
  '!!js/function "function () {}"',
  '*nowhere',
  '&a [*a]',
  '"\\0"',
  '| \n    text',
  '2020-01-01',
  'yes',
  '~',
];

export const YAML: Mutations = {
  'another value': (bytes, random) => onSetting(bytes, random, () => random.pick(YAML_VALUES)),
  'a setting missing': (bytes, random) => {
    const lines = bytes.toString().split('\n');
    lines.splice(1 + random.int(lines.length - 2), 1);
    return Buffer.from(lines.join('\n'));
  },
  'a setting twice': (bytes, random) => {
    const lines = bytes.toString().split('\n');
    const at = 1 + random.int(lines.length - 2);
    lines.splice(at, 0, lines[at]);
    return Buffer.from(lines.join('\n'));
  },
  'a number of another size': (bytes, random) =>
    onSetting(bytes, random, (value) =>
      /^[\d.e-]+$/.test(value)
        ? String(random.pick([-Number(value), Number(value) + 1, Number(value) + 0.5, 0, 1e15, 2 ** 53]))
        : undefined,
    ),
  'an unknown setting': (bytes, random) =>
    Buffer.from(
      `${bytes.toString()}${random.pick(['__proto__', 'constructor', 'modle', '? [a, b]\n', '{a: 1}', 'toString', '<<'])}: ${random.pick(['1', '{a: 1}', '[]'])}\n`,
    ),
  'an alias bomb': (bytes) => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
    for (let i = 1; i < 12; i++)
      lines.push(
        `a${i}: &a${i} [${Array(10)
          .fill(`*a${i - 1}`)
          .join(', ')}]`,
      );
    return Buffer.from(`${bytes.toString()}${lines.join('\n')}\n`);
  },
  'flow nested 20,000 deep': (bytes) =>
    Buffer.from(`${bytes.toString()}deep: ${'['.repeat(20_000)}${']'.repeat(20_000)}\n`),
  'keys nested 500 deep': (bytes) =>
    Buffer.from(
      `${bytes.toString()}deep:\n${Array.from({ length: 500 }, (_, i) => `${' '.repeat(i + 1)}k:`).join('\n')}\n`,
    ),
  'two documents': (bytes) => Buffer.concat([bytes, Buffer.from('---\n'), bytes]),
  '3 MiB of comment': (bytes) => Buffer.concat([bytes, Buffer.from(`# ${'c'.repeat(3 << 20)}\n`)]),
  tabs: (bytes) => Buffer.from(bytes.toString().replaceAll('\n  ', '\n\t')),
};

function onSetting(
  bytes: Buffer,
  random: Random,
  by: (value: string) => string | undefined,
): Buffer | undefined {
  const lines = bytes.toString().split('\n');
  const with_ = lines.flatMap((line, i) => (/^\s*\w+: \S/.test(line) ? [i] : []));
  if (with_.length === 0) return undefined;
  const at = random.pick(with_);
  const [, name, value] = /^(\s*\w+: )(.*)$/.exec(lines[at])!;
  const other = by(value);
  if (other === undefined) return undefined;
  lines[at] = name + other;
  return Buffer.from(lines.join('\n'));
}

// ---------------------------------------------------------------------------------------------------- safetensors

/** Header and data of a whole file. */
function opened(
  bytes: Buffer,
): { header: Record<string, Record<string, unknown>>; data: Buffer } | undefined {
  try {
    const length = Number(bytes.readBigUInt64LE(0));
    return { header: JSON.parse(bytes.subarray(8, 8 + length).toString()), data: bytes.subarray(8 + length) };
  } catch {
    return undefined;
  }
}

function closed(header: string, data: Uint8Array, length?: bigint): Buffer {
  const text = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length ?? BigInt(text.length));
  return Buffer.concat([head, text, data]);
}

type Header = Record<string, Record<string, unknown>>;

function onHeader(change: (header: Header, names: string[], random: Random) => string | undefined): Mutation {
  return (bytes, random) => {
    const file = opened(bytes);
    if (!file) return undefined;
    const names = Object.keys(file.header).filter((name) => name !== '__metadata__');
    const text = change(file.header, names, random);
    return text === undefined ? undefined : closed(text, file.data);
  };
}

const numberInData =
  (values: number[]): Mutation =>
  (bytes, random) => {
    const file = opened(bytes);
    if (!file || file.data.length < 4) return undefined;
    const data = Buffer.from(file.data);
    data.writeFloatLE(random.pick(values), 4 * random.int(data.length >> 2));
    return Buffer.concat([bytes.subarray(0, bytes.length - data.length), data]);
  };

export const SAFETENSORS: Mutations = {
  'another header length': (bytes, random) => {
    const out = Buffer.from(bytes);
    const length = out.readBigUInt64LE(0);
    out.writeBigUInt64LE(
      random.pick([
        0n,
        1n,
        length - 1n,
        length + 1n,
        length * 2n,
        99_999_999n,
        100_000_001n,
        1n << 32n,
        1n << 53n,
        (1n << 64n) - 1n,
      ]),
    );
    return out;
  },
  'another dtype': onHeader((header, names, random) => {
    const at = random.pick(names);
    header[at].dtype = random.pick([
      'F16',
      'BF16',
      'F64',
      'I64',
      'I32',
      'U32',
      'BOOL',
      'F8_E4M3',
      'X',
      '',
      'f32',
      null,
      7,
    ]);
    return JSON.stringify(header);
  }),
  'a dtype of the same width': onHeader((header, names, random) => {
    for (const name of random.pick([names, [random.pick(names)]]))
      header[name].dtype = random.pick(['I32', 'U32']);
    return JSON.stringify(header);
  }),
  'another shape': onHeader((header, names, random) => {
    const at = random.pick(names);
    const shape = header[at].shape as number[];
    header[at].shape = random.pick<unknown>([
      [],
      [...shape, 1],
      [...shape].reverse(),
      shape.map((n) => n * 2),
      [2 ** 53, 2 ** 53],
      [-1, -16],
      [1e9, 1e9],
      [0, 1e15],
      [shape.reduce((a, b) => a * b, 1)],
      null,
      'wide',
      [0.5, 32],
    ]);
    return JSON.stringify(header);
  }),
  'other offsets': onHeader((header, names, random) => {
    const at = random.pick(names);
    const [begin, end] = header[at].data_offsets as [number, number];
    header[at].data_offsets = random.pick<unknown>([
      [begin + 4, end + 4],
      [begin - 4, end - 4],
      [end, begin],
      [begin, end + 4],
      [0, end - begin],
      [2 ** 52, 2 ** 52 + end - begin],
      [-(end - begin), 0],
      [begin],
      [begin, end, end],
      null,
      ['0', '64'],
    ]);
    return JSON.stringify(header);
  }),
  'two tensors exchanged': onHeader((header, names, random) => {
    const [a, b] = random.shuffle([...names]);
    [header[a], header[b]] = [header[b], header[a]];
    return JSON.stringify(header);
  }),
  'a tensor renamed': onHeader((header, names, random) => {
    const at = random.pick(names);
    const name = random.pick(['__proto__', 'constructor', '', 'x', `${at}x`, 'a\u0000b', '\u{1F600}']);
    return JSON.stringify(header).replace(`${JSON.stringify(at)}:`, () => `${JSON.stringify(name)}:`);
  }),
  'a tensor missing': (bytes) => {
    const file = opened(bytes);
    if (!file) return undefined;
    const last = Object.entries(file.header)
      .filter(([name]) => name !== '__metadata__')
      .sort(([, a], [, b]) => (b.data_offsets as number[])[0] - (a.data_offsets as number[])[0])[0];
    delete file.header[last[0]];
    return closed(JSON.stringify(file.header), file.data.subarray(0, (last[1].data_offsets as number[])[0]));
  },
  'a tensor twice': onHeader((header, names, random) => {
    const at = random.pick(names);
    return JSON.stringify(header).replace('{', () => `{${JSON.stringify(at)}:${JSON.stringify(header[at])},`);
  }),
  'a tensor more': (bytes) => {
    const file = opened(bytes);
    if (!file) return undefined;
    file.header.more = { dtype: 'F32', shape: [1], data_offsets: [file.data.length, file.data.length + 4] };
    return closed(JSON.stringify(file.header), Buffer.concat([file.data, Buffer.alloc(4)]));
  },
  'other metadata': onHeader((header, _, random) => {
    const text = JSON.stringify({ ...header, __metadata__: undefined });
    return text.replace('{', () => `{"__metadata__": ${random.pick(VALUES)}, `);
  }),
  'a header value changed': onHeader((header, names, random) => {
    const places = placesOf(header).filter((path) => names.includes(path[0]));
    return withRaw(header, random.pick(places), random.pick(VALUES));
  }),
  'a header nested 100,000 deep': (bytes) => closed(`{"a": ${deep(100_000)}}`, opened(bytes)?.data ?? bytes),
  'a header of 100,000 empty tensors': (bytes) => {
    const names = Array.from(
      { length: 100_000 },
      (_, i) => `"t${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`,
    );
    return closed(`{${names.join(',')}}`, opened(bytes)?.data ?? bytes);
  },
  'NaN among the values': numberInData([Number.NaN]),
  'Infinity among the values': numberInData([Infinity, -Infinity]),
  'a value of 3e38': numberInData([3e38, -3e38]),
  'no tensor at all': () => closed('{}', Buffer.alloc(0)),
};

// ---------------------------------------------------------------------------------------------------- vocabularies, pointers, records

const onLines =
  (change: (lines: string[], random: Random) => string[]): Mutation =>
  (bytes, random) => {
    const lines = bytes.toString().split('\n').filter(Boolean);
    return Buffer.from(`${change(lines, random).join('\n')}\n`);
  };

export const VOCABULARY: Mutations = {
  'a special token missing': onLines((lines, random) => {
    const token = random.pick(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']);
    return lines.map((line) => (line === token ? '[unused0]' : line));
  }),
  'a piece twice': onLines((lines, random) => [...lines, random.pick(lines)]),
  'a piece more': onLines((lines) => [...lines, 'zyzzyva']),
  'a piece missing': onLines((lines, random) => lines.toSpliced(5 + random.int(lines.length - 5), 1)),
  'another order': onLines((lines, random) => random.shuffle(lines)),
  'an empty line within': onLines((lines, random) => lines.toSpliced(random.int(lines.length), 0, '')),
  'white space behind the pieces': onLines((lines) => lines.map((line) => `${line} `)),
  'a piece of a million characters': onLines((lines) => [...lines, 'a'.repeat(1_000_000)]),
  'odd pieces': onLines((lines) => [...lines, '##', '#', '\u0000', '\uFEFF', '[[MASK]]', '__proto__']),
};

export const POINTER: Mutations = {
  'another name': (_, random) =>
    Buffer.from(
      random.pick([
        '../index',
        '../../other/run/index/step-0000006',
        '/etc',
        '/',
        '.',
        '..',
        'step-0000000',
        'step-9999999',
        'step-0000006/../step-0000006',
        'current',
        'a\u0000b',
        'x'.repeat(5000),
        'x'.repeat(190),
        '\n\n',
        'step-0000006\nstep-0000000',
        'con',
        '%00',
        '{"name": "step-0000006"}',
        '__proto__',
      ]),
    ),
};

/** Files of whole numbers of 4 and 8 bytes. */
export const RECORDS: Mutations = {
  'a number of 8 bytes replaced': (bytes, random) => {
    if (bytes.length < 8) return undefined;
    const out = Buffer.from(bytes);
    const at = 8 * random.int(bytes.length >> 3);
    out.writeBigUInt64LE(
      random.pick([
        0n,
        1n,
        (1n << 64n) - 1n,
        1n << 63n,
        1n << 53n,
        1n << 32n,
        out.readBigUInt64LE(at) + 1n,
        BigInt(bytes.length),
      ]),
      at,
    );
    return out;
  },
  'a number of 4 bytes replaced': (bytes, random) => {
    if (bytes.length < 4) return undefined;
    const out = Buffer.from(bytes);
    const at = 4 * random.int(bytes.length >> 2);
    out.writeUInt32LE(random.pick([0, 1, 0xffffffff, 0x80000000, 0x7f800000, 0x7fc00000, 0xffff]), at);
    return out;
  },
};
