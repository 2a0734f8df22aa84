// The first file of a cutting thread: tsx does not reach from the thread that starts it into this one.
import '../typescript.mjs';

await import('./split-worker.ts');
