import { crc32 } from '@node-rs/crc32';
import { gather, type Ranks } from '../engine/ranks.ts';
import type { Shape } from '../model/bert.ts';
import { fetchValues } from '../model/host-values.ts';
import { type Model, setParam } from '../model/model.ts';
import { UserError } from '../system/errors.ts';
import type { Optimizer } from './optimizer.ts';

// All ranks start with the weights of rank 0, and then make the same updates, so their weights stay the same to the last bit.

/** Gives every rank the weights of rank 0, and also its optimizer's moments if `moments`. Each must have the same parameters. */
export async function startEqual(
  ranks: Ranks,
  { params }: Model,
  optimizer: Pick<Optimizer, 'state' | 'restore'>,
  moments: boolean,
): Promise<void> {
  if (ranks.size === 1) return;
  for (const name of [...params.keys()].sort()) {
    const param = params.get(name)!;
    const [values] = await fetchValues(param);
    await ranks.broadcast(values);
    if (ranks.rank > 0) setParam(params, name, param.shape, values);
  }
  if (!moments) return;
  const all = new Map<string, Float32Array>();
  for (const { name, data } of optimizer.state()) {
    const values = typeof data === 'function' ? await data() : data;
    await ranks.broadcast(values);
    all.set(name, values);
  }
  if (ranks.rank > 0) optimizer.restore(all);
}

/** A `UserError` if the ranks have different weights: then their updates no longer belong together. @param when for the message */
export async function needEqual(
  ranks: Ranks,
  { params }: Model,
  shapes: readonly Shape[],
  when: string,
): Promise<void> {
  if (ranks.size === 1) return;
  let crc = 0;
  for (const shape of shapes) {
    const [values] = await fetchValues(params.get(shape.name)!);
    crc = crc32(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), crc);
  }
  const crcs = await gather(ranks, crc);
  const others = [...crcs.keys()].filter((rank) => crcs[rank] !== crcs[0]);
  if (others.length === 0) return;
  throw new UserError(
    `${when} rank ${others.join(', ')} of ${ranks.size} has other weights than rank 0, so nothing is saved; ` +
      'start the same command on machines with one kind of processor, where it resumes from the last checkpoint',
  );
}
