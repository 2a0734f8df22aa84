// npm run bench:index: an index of 20 thousand, 200 thousand and 2 million vectors of 128 (5 GB free in the temporary
// folder): as one graph, as eight, and exact, each in its own process.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { dtypeOf } from '../src/retrieval/graph.ts';
import type { Indexed } from './index-one.ts';

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: '20000,200000,2000000' },
    /** Graphs that share the rows; 0: exact. */
    subIndexes: { type: 'string', default: '1,8,0' },
  },
});

const folder = mkdtempSync(join(tmpdir(), 'bench-index-'));
try {
  console.log(`index on ${availableParallelism()} cores`);
  console.log(
    'vectors    kind             seconds  vectors/s  peak RSS      disk  recall@10  ms/query for 10  for 5,000',
  );
  for (const size of options.sizes.split(',').map(Number)) {
    for (const subIndexes of options.subIndexes.split(',').map(Number)) {
      const dtype = subIndexes === 0 ? 'f32' : dtypeOf('auto', size);
      const kind = subIndexes === 0 ? 'exact' : `${subIndexes} graph${subIndexes > 1 ? 's' : ''} ${dtype}`;
      const dir = join(folder, 'index');
      const one = [join(import.meta.dirname, 'index-one.ts'), String(size), String(subIndexes), dtype, dir];
      const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', ...one]);
      const { seconds, peak, disk, recall10, query10, query5000 } = JSON.parse(stdout) as Indexed;
      console.log(
        size.toLocaleString('en').padEnd(10),
        kind.padEnd(14),
        seconds.toFixed(1).padStart(9),
        Math.round(size / seconds)
          .toLocaleString('en')
          .padStart(10),
        mib(peak).padStart(9),
        mib(disk).padStart(9),
        recall10.toFixed(3).padStart(10),
        query10.toFixed(2).padStart(16),
        query5000.toFixed(1).padStart(10),
      );
      rmSync(dir, { recursive: true });
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}
