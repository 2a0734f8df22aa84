import { engineIdentity, startEngine } from '../engine.ts';

// CHILD-PROCESS ENTRY. Says which engine `realm embed` would compute with, so that a worker need not hold one itself.

process.once('message', async ({ engine }: { engine: Parameters<typeof startEngine>[0] }) => {
  try {
    await startEngine(engine);
    process.send!({ identity: engineIdentity() });
  } catch (error) {
    process.send!({ message: (error as Error).message });
  }
  process.disconnect();
});
