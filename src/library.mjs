// What `import 'realm-lm'` loads: lets Node load TypeScript, then hands on what index.ts exports. A test compares the names.
import './typescript.mjs';

export const {
  buildIndex,
  evaluateAnswers,
  evaluateMasked,
  evaluateRecall,
  finetuneQa,
  ictWarmup,
  loadConfig,
  openRun,
  openSession,
  prepare,
  pretrain,
  readerWarmup,
  runStatus,
  settingsReference,
  UserError,
  writeReport,
} = await import('./index.ts');
