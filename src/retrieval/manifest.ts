import { join } from 'node:path';
import { z } from 'zod';
import { UserError } from '../system/errors.ts';
import { type FileDigest, readJson } from '../system/files.ts';

// Maximum inner product search over the block embeddings: one folder holds
//   graph.usearch     the HNSW graph with its own copy of the vectors (f32 or f16), mapped into memory, never loaded;
//                     several graphs are graph-1.usearch, graph-2.usearch, …; an index for exact search has none
//   embeddings.f32    the block embeddings in full precision, [rows, P] little-endian floats, read by position
//   blocks.u64        the hash of the block of each row (`Corpus.hash`), little-endian
//   manifest.json     their description, with length and SHA-256 of each
// Letters: B queries, K wanted blocks, P projection (dimensions of an embedding).

export interface NamedDigest extends FileDigest {
  name: string;
}

/** Of the products that make a block's vector; the sums, and the vectors themselves, are always f32. */
export type Precision = 'f32' | 'bf16';

/** What an index was made of, and its files. */
export interface IndexManifest {
  format: 4;
  dimensions: number;
  /** Settings of the graphs: this and the next two. */
  dtype: 'f32' | 'f16';
  m: number;
  efConstruction: number;
  rows: number;
  /** `Corpus.sha256` of the blocks that were embedded. */
  corpusSha256: string;
  /** Training step of the weights that embedded them. */
  step: number;
  weightsSha256: string;
  /** Identifies how blocks become tokens and tokens become vectors, apart from the weights: rows of another encoding cannot be reused. */
  encoding: string;
  /** Of all rows: see precision.ts. */
  precision: Precision;
  /** Rows copied from an earlier index instead of embedded. */
  reused: number;
  /** ISO 8601. */
  createdAt: string;
  /** Mean share of the exact ten best that the graphs find, at `efSearch`. */
  recall10?: { probes: number; value: number };
  /** The graphs that share the rows (see graphs.ts); if empty, every search examines all rows. */
  graphs: NamedDigest[];
  embeddings: NamedDigest;
  blocks: NamedDigest;
}

export const namedDigestSchema = z.strictObject({
  name: z.string(),
  bytes: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

const manifestSchema: z.ZodType<IndexManifest> = z.strictObject({
  format: z.literal(4),
  dimensions: z.int().positive(),
  dtype: z.enum(['f32', 'f16']),
  m: z.int().nonnegative(),
  efConstruction: z.int().nonnegative(),
  rows: z.int().positive(),
  corpusSha256: z.string(),
  step: z.int().nonnegative(),
  weightsSha256: z.string(),
  encoding: z.string(),
  precision: z.enum(['f32', 'bf16']).default('f32'), // those of older versions have none
  reused: z.int().nonnegative(),
  createdAt: z.string(),
  recall10: z.strictObject({ probes: z.int().positive(), value: z.number() }).optional(),
  graphs: z.array(namedDigestSchema),
  embeddings: namedDigestSchema,
  blocks: namedDigestSchema,
});

export const MANIFEST = 'manifest.json';

export const EMBEDDINGS = 'embeddings.f32';

export const BLOCKS = 'blocks.u64';

export const REBUILD = 'make it again with "realm build-index"';

/** All files of an index except its manifest. */
export function digestsOf({ graphs, embeddings, blocks }: IndexManifest): NamedDigest[] {
  return [...graphs, embeddings, blocks];
}

/** Manifest of an index folder, checked; a `UserError` if it is missing or wrong. */
export function readManifest(dir: string): IndexManifest {
  const path = join(dir, MANIFEST);
  const json = ofThisFormat(readJson(path, 'index manifest', REBUILD));
  if ((json as { format?: unknown } | null)?.format === 1) {
    throw new UserError(`${path}: made by an older version; ${REBUILD}`);
  }
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new UserError(`${path}: ${issue.path.join('.') || 'manifest'}: ${issue.message}; ${REBUILD}`);
  }
  const { rows, dimensions, embeddings, blocks } = parsed.data;
  if (embeddings.bytes !== rows * dimensions * 4 || blocks.bytes !== rows * 8) {
    throw new UserError(
      `${path}: ${rows} rows of ${dimensions} do not make ${embeddings.bytes} and ${blocks.bytes} bytes; ${REBUILD}`,
    );
  }
  return parsed.data;
}

/** Format 2 had one graph, `file`; formats 2 and 3 had other names for three keys. All else is the same. */
function ofThisFormat(json: unknown): unknown {
  const { format, ...old } = (json ?? {}) as Record<string, unknown>;
  if (format !== 2 && format !== 3) return json;
  const { file, graphs, scalar, connectivity, expansionAdd, ...rest } = old;
  return {
    ...rest,
    format: 4,
    dtype: scalar,
    m: connectivity,
    efConstruction: expansionAdd,
    graphs: format === 2 ? [file] : graphs,
  };
}
