// The first file of a cutting thread: tsx does not reach from the thread that starts it into this one.
import { register } from 'tsx/esm/api';

register();
await import('./cutter.ts');
