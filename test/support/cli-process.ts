import { main } from '../../src/cli.ts';

// CHILD-PROCESS ENTRY. Runs each command line that it is sent, one after another, and sends back the exit code and what
// was written. Starting `realm` for each takes a second of loading what is loaded already here.

process.on('message', async (args: string[]) => {
  const [out, err] = [process.stdout, process.stderr].map(keep);
  const code = await main(['node', 'realm', ...args]);
  process.send!({ code, out: out.stop(), err: err.stop() });
});
process.on('disconnect', () => process.exit());

/** Keeps what is written to a stream instead of writing it. */
function keep(stream: NodeJS.WriteStream): { stop(): string } {
  const { write } = stream;
  let text = '';
  stream.write = (piece: string | Uint8Array) => {
    text += typeof piece === 'string' ? piece : Buffer.from(piece).toString();
    return true;
  };
  return {
    stop() {
      stream.write = write;
      return text;
    },
  };
}
