// A person's browser: headless Chromium, moved by playwright-core. Each person has cookies of their own. Content policies
// stay in force: axe-core goes in through the debugger, not through the page.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { say, serve } from './lines.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const { executable } = JSON.parse(process.argv[2]);
const browser = await chromium.launch({
  executablePath: executable,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
});
const PATIENCE = 8_000;
const tabs = new Map();
let count = 0;

async function axeOf(page, rules) {
  const debug = await page.context().newCDPSession(page);
  const evaluate = async (expression) => {
    const done = await debug.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (done.exceptionDetails) throw new Error(JSON.stringify(done.exceptionDetails));
    return done.result.value;
  };
  if (!(await evaluate('typeof axe !== "undefined"'))) await evaluate(`${axe}; undefined`);
  const options = { resultTypes: ['violations'], ...(rules && { runOnly: { type: 'rule', values: rules } }) };
  const found = await evaluate(`axe.run(document, ${JSON.stringify(options)}).then((found) => JSON.stringify(
    found.violations.map((one) => (
      { id: one.id, impact: one.impact, help: one.help, nodes: one.nodes.map((node) => node.html) }))))`);
  await debug.detach();
  return JSON.parse(found);
}

async function newTab(context) {
  const page = await context.newPage();
  const complaints = [];
  const answers = [];
  const complain = (text) => complaints.push(text);
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complain(message.text()));
  page.on('pageerror', (error) => complain(error.message));
  page.on('requestfailed', (failed) => complain(`${failed.method()} ${failed.url()}: ${failed.failure()?.errorText}`));
  page.on('response', (given) => given.request().isNavigationRequest() && answers.push(
    { method: given.request().method(), url: given.url(), status: given.status() }));
  count += 1;
  tabs.set(count, { context, page, complaints, answers });
  return count;
}

const deeds = {
  async open({ width, height, scheme, scripts }) {
    const context = await browser.newContext({
      viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: scripts, locale: 'en-GB',
    });
    context.setDefaultTimeout(PATIENCE);
    return newTab(context);
  },
  another: ({ tab }) => newTab(tabs.get(tab).context),
  async close({ tab }) {
    const { context } = tabs.get(tab);
    await context.close();
    for (const [number, one] of tabs) if (one.context === context) tabs.delete(number);
  },
  async goto({ tab, url }) {
    return (await tabs.get(tab).page.goto(url))?.status();
  },
  resize: ({ tab, width, height }) => tabs.get(tab).page.setViewportSize({ width, height }),
  scheme: ({ tab, scheme }) => tabs.get(tab).page.emulateMedia({ colorScheme: scheme }),
  type: ({ tab, text }) => tabs.get(tab).page.keyboard.type(text),
  back: async ({ tab }) => { await tabs.get(tab).page.goBack(); },
  fill: ({ tab, selector, value }) => tabs.get(tab).page.fill(selector, value),
  click: ({ tab, selector }) => tabs.get(tab).page.locator(selector).first().click(),
  press: ({ tab, key }) => tabs.get(tab).page.keyboard.press(key),
  wait: async ({ tab, selector }) => { await tabs.get(tab).page.waitForSelector(selector); },
  async arrive({ tab, prefix }) {
    const { page } = tabs.get(tab);
    await page.waitForURL((url) => url.href.startsWith(prefix), { waitUntil: 'load' });
    return page.url();
  },
  url: ({ tab }) => tabs.get(tab).page.url(),
  text: ({ tab, selector }) => tabs.get(tab).page.innerText(selector),
  html: ({ tab }) => tabs.get(tab).page.content(),
  count: ({ tab, selector }) => tabs.get(tab).page.locator(selector).count(),
  evaluate: ({ tab, expression }) => tabs.get(tab).page.evaluate(expression),
  cookies: ({ tab }) => tabs.get(tab).context.cookies(),
  complaints: ({ tab }) => tabs.get(tab).complaints,
  answers: ({ tab }) => tabs.get(tab).answers,
  screenshot: async ({ tab, path }) => { await tabs.get(tab).page.screenshot({ path, fullPage: true }); },
  axe: ({ tab, rules }) => axeOf(tabs.get(tab).page, rules),
};

function placed(deed) {
  return async (said) => {
    try {
      return await deed(said);
    } catch (error) {
      const { page, complaints } = tabs.get(said.tab) ?? {};
      if (page) error.message += `\nat ${page.url()}: ${await page.innerText('body')}\n${complaints.join('\n')}`;
      throw error;
    }
  };
}

say({ version: browser.version() });
serve(Object.fromEntries(Object.entries(deeds).map(([name, deed]) => [name, placed(deed)])));
