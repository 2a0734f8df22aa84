// The first file of a split worker: a thread does not inherit tsx from the thread that starts it.
import '../typescript.mjs';

await import('./split-worker.ts');
