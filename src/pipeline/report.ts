import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { reportPage } from '../report/page.ts';
import { isRun } from '../report/record.ts';
import { refuseOldRun, runFolder } from '../run/folder.ts';
import { UserError } from '../system/errors.ts';
import { writeFileAtomic } from '../system/files.ts';

/**
 * Writes one HTML file about the runs, and reads their folders only.
 * @returns the file, and its bytes
 */
export function report(dirs: readonly string[], to?: string): { file: string; bytes: number } {
  const runs = dirs.map((dir) => {
    const run = runFolder(dir);
    if (!existsSync(dir))
      throw new UserError(`${dir}: no such run folder; name one that a command has made with --run`);
    refuseOldRun(run);
    if (!isRun(run)) {
      throw new UserError(
        `${dir}: holds no run, neither settings nor metrics; name the folder that was given to other commands with --run`,
      );
    }
    return run;
  });
  const file = to ?? join(dirs[0], 'report.html');
  const page = Buffer.from(reportPage(runs, { live: false }));
  writeFileAtomic(file, page);
  return { file, bytes: page.length };
}
