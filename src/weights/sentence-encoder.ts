import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { DenseLayer, Head } from '../model/head.ts';
import { shown, UserError } from '../system/errors.ts';
import { inside, readJson } from '../system/files.ts';

// A folder of sentence-transformers: modules.json names its parts in order, each with a folder of its own. Version 6
// writes other type names and fields than 2 to 5, and the first versions kept the encoder in 0_Transformer/.

const MODULES = 'modules.json';
const REMEDY = 'choose another sentence encoder, or set model.pooling to use its BERT without its head';

const modulesSchema = z.array(z.object({ path: z.string(), type: z.string() })).min(1);

const poolingSchema = z.looseObject({
  pooling_mode: z.union([z.string(), z.array(z.string())]).optional(),
  include_prompt: z.boolean().optional(),
});

/** The fields that said the pooling before version 6, in the order in which their results are joined. */
const POOLING_FIELDS = {
  pooling_mode_cls_token: 'cls',
  pooling_mode_max_tokens: 'max',
  pooling_mode_mean_tokens: 'mean',
  pooling_mode_mean_sqrt_len_tokens: 'mean_sqrt_len_tokens',
  pooling_mode_weightedmean_tokens: 'weightedmean',
  pooling_mode_lasttoken: 'lasttoken',
};

const io = { module_input_name: z.string().optional(), module_output_name: z.string().nullish() };
const normalizeSchema = z.object(io);
const denseSchema = z.object({
  out_features: z.int().positive(),
  activation_function: z.string().nullish(),
  use_residual: z.boolean().optional(),
  ...io,
});

const transformerSchema = z.object({
  max_seq_length: z.int().min(3).nullish(),
  do_lower_case: z.boolean().optional(),
});
const tokenizerSchema = z.object({
  model_max_length: z.number().nullish(),
  do_lower_case: z.boolean().optional(),
});

const modelSchema = z.object({
  prompts: z.record(z.string(), z.string().nullable()).nullish(),
  default_prompt_name: z.string().nullish(),
  similarity_fn_name: z.string().nullish(),
});

/** The parts of a folder of sentence-transformers in their order, the last word of each type as its kind; undefined for any other folder. */
function modulesOf(folder: string): { kind: string; folder: string }[] | undefined {
  const path = join(folder, MODULES);
  if (!existsSync(path)) return undefined;
  return parsed(path, modulesSchema).map(({ path, type }) => ({
    kind: type.slice(type.lastIndexOf('.') + 1),
    folder: path === '' ? folder : inside(folder, path),
  }));
}

const isTransformer = (kind: string) => kind === 'Transformer' || kind === 'BERT';

/** The folder of the BERT itself: of a sentence encoder that of its first part, else the folder. */
export function bertFolder(folder: string): string {
  return modulesOf(folder)?.find(({ kind }) => isTransformer(kind))?.folder ?? folder;
}

/** Folders of a sentence encoder's dense layers, in their order. */
export function denseFolders(folder: string): string[] {
  return (modulesOf(folder) ?? []).filter(({ kind }) => kind === 'Dense').map((module) => module.folder);
}

/**
 * The head that a folder of sentence-transformers describes, every setting of it; undefined for any other folder. A part
 * that realm does not have is a `UserError`.
 */
export function readSentenceHead(folder: string): Head | undefined {
  const path = join(folder, MODULES);
  const modules = modulesOf(folder);
  if (!modules) return undefined;
  const kinds = modules.map(({ kind }) => kind);
  const known = ['Pooling', 'Dense', 'Normalize'];
  const unknown = kinds.find((kind) => !isTransformer(kind) && !known.includes(kind));
  if (unknown !== undefined)
    throw new UserError(`${path}: has a part of the kind ${unknown}, which realm does not have; ${REMEDY}`);
  if (!/^(Transformer|BERT) Pooling( Dense)*( Normalize)?$/.test(kinds.join(' ')))
    throw new UserError(
      `${path}: its parts are ${kinds.join(', ')}, and realm reads Transformer, Pooling, then Dense and Normalize where it has them; ${REMEDY}`,
    );
  const [transformer, pooling, ...others] = modules;
  const normalize = others.find(({ kind }) => kind === 'Normalize');
  if (normalize) readNormalize(normalize.folder);
  const { cosine, queryPrefix, documentPrefix } = readModel(folder);
  return {
    pooling: readPooling(pooling.folder),
    dense: denseFolders(folder).map(readDense),
    projection: 'none',
    // Where the scores are cosines, vectors of length 1 give the same ones as inner products.
    normalize: normalize !== undefined || cosine,
    queryPrefix,
    documentPrefix,
    sequenceTokens: longestOf(transformer.folder),
  };
}

function parsed<T>(path: string, schema: z.ZodType<T>): T {
  const json = readJson(path, 'description of a sentence encoder', 'download the folder again');
  const { data, error } = schema.safeParse(json);
  if (error) {
    const { path: keys, message } = error.issues[0];
    throw new UserError(`${path}: ${keys.join('.') || 'the file'}: ${message}; download the folder again`);
  }
  return data as T;
}

function readPooling(folder: string): 'cls' | 'mean' {
  const path = join(folder, 'config.json');
  const config = parsed(path, poolingSchema);
  const named = Object.entries(POOLING_FIELDS).flatMap(([field, mode]) =>
    config[field] === true ? [mode] : [],
  );
  const modes = [config.pooling_mode ?? (named.length > 0 ? named : 'mean')].flat();
  const [mode] = modes;
  if (modes.length !== 1 || (mode !== 'cls' && mode !== 'mean'))
    throw new UserError(
      `${path}: its pooling is ${modes.join(' and ')}, and realm has cls and mean; ${REMEDY}`,
    );
  if (config.include_prompt === false)
    throw new UserError(
      `${path}: include_prompt is false, and realm has only poolings of all tokens; ${REMEDY}`,
    );
  return mode;
}

/** A part that takes or gives something other than the text's vector. */
function needVector(
  path: string,
  { module_input_name: from, module_output_name: to }: z.infer<typeof normalizeSchema>,
) {
  const other = [from, to].find((name) => name != null && name !== 'sentence_embedding');
  if (other !== undefined)
    throw new UserError(
      `${path}: works on ${shown(other)}, and realm has only parts that work on the vector of a text; ${REMEDY}`,
    );
}

function readNormalize(folder: string): void {
  const path = join(folder, 'config.json');
  if (existsSync(path)) needVector(path, parsed(path, normalizeSchema));
}

const ACTIVATIONS: Record<string, DenseLayer['activation']> = { Tanh: 'tanh', Identity: 'none' };

function readDense(folder: string): DenseLayer {
  const path = join(folder, 'config.json');
  const config = parsed(path, denseSchema);
  needVector(path, config);
  if (config.use_residual)
    throw new UserError(`${path}: use_residual is true, which realm does not have; ${REMEDY}`);
  const name = config.activation_function ?? 'Identity';
  const kind = name.slice(name.lastIndexOf('.') + 1).replace(/\(\)$/, '');
  if (!Object.hasOwn(ACTIVATIONS, kind))
    throw new UserError(
      `${path}: activation_function is ${shown(name)}, and realm has Tanh and Identity; ${REMEDY}`,
    );
  return { size: config.out_features, activation: ACTIVATIONS[kind] };
}

/** Tokens of the longest sequence: the encoder's own, else the tokenizer's; null: as many as there are positions. */
function longestOf(folder: string): number | null {
  const path = join(folder, 'sentence_bert_config.json');
  const config = existsSync(path) ? parsed(path, transformerSchema) : {};
  const tokenizerPath = join(folder, 'tokenizer_config.json');
  const tokenizer = existsSync(tokenizerPath) ? parsed(tokenizerPath, tokenizerSchema) : {};
  if (config.do_lower_case && tokenizer.do_lower_case === false)
    throw new UserError(
      `${path}: do_lower_case is true and the tokenizer's is false, and realm lower-cases only as the tokenizer does; ${REMEDY}`,
    );
  const longest = config.max_seq_length ?? tokenizer.model_max_length ?? null;
  // A tokenizer without a limit has a number of 30 digits there.
  return longest === null || longest > 1e6 || longest < 3 ? null : Math.floor(longest);
}

/** The prompts as `encode_query` and `encode_document` choose them, and whether scores are cosines. */
function readModel(folder: string) {
  const path = join(folder, 'config_sentence_transformers.json');
  const config = existsSync(path) ? parsed(path, modelSchema) : {};
  const { prompts, default_prompt_name: byDefault, similarity_fn_name: similarity } = config;
  const prompt = (...names: string[]) => {
    const name = [...names, ...(byDefault ? [byDefault] : [])].find((name) => prompts?.[name] != null);
    return name === undefined ? '' : prompts![name]!;
  };
  if (similarity && !['cosine', 'dot', 'dot_product'].includes(similarity))
    throw new UserError(
      `${path}: similarity_fn_name is ${shown(similarity)}, and realm has cosine and dot; ${REMEDY}`,
    );
  const [queryPrefix, documentPrefix] = [prompt('query'), prompt('document', 'passage', 'corpus')];
  return { cosine: (similarity ?? 'cosine') === 'cosine', queryPrefix, documentPrefix };
}
