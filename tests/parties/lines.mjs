// One line of JSON in, one line of JSON out: how the tests talk to a program in Node. Ends with its standard input, so
// that nothing outlives a test run that was killed.
import { createInterface } from 'node:readline';

export function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

export function serve(deeds) {
  const lines = createInterface({ input: process.stdin });
  let last = Promise.resolve();
  lines.on('line', (line) => {
    last = last.then(() => answer(deeds, JSON.parse(line))).then(say);
  });
  lines.on('close', () => last.finally(() => process.exit(0)));
}

async function answer(deeds, { do: deed, ...said }) {
  try {
    return { answer: (await deeds[deed](said)) ?? null };
  } catch (error) {
    return { error: description(error) };
  }
}

function description(error) {
  const { name, message, code, error: oauth, error_description: detail, status } = error;
  const cause = error.cause instanceof Error ? description(error.cause) : error.cause;
  return { name, message, code, oauth, detail, status, cause };
}
