// An OpenID provider that others wrote: node oidc-provider, certified by the OpenID Foundation. People, their passwords and
// their claims are read from a file at each use, so a test may change them; clients register themselves (RFC 7591).
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';
import { say, serve } from './lines.mjs';

const { host, path, people: file } = JSON.parse(process.argv[2]);
const people = () => JSON.parse(readFileSync(file, 'utf8'));
const server = createServer();
await new Promise((resolve) => server.listen(0, host, resolve));
const issuer = `http://${host}:${server.address().port}${path}`;
const { privateKey } = await generateKeyPair('RS256', { extractable: true });

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig' }] },
  cookies: { keys: ['nobody else knows this'] },
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'given_name', 'family_name', 'preferred_username'],
    groups: ['groups'],
  },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  clientBasedCORS: () => true,
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: { enabled: true },
  },
  findAccount: (_, accountId) => {
    const person = people()[accountId];
    return person && { accountId, claims: () => ({ sub: accountId, ...person.claims }) };
  },
  interactions: { url: (_, interaction) => `${path}/sign-in/${interaction.uid}` },
  issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
  ttl: { AccessToken: 300, Grant: 600, IdToken: 300, Interaction: 300, RefreshToken: 600, Session: 600 },
});
provider.on('server_error', (_, error) => console.error(error));
for (const event of ['authorization.error', 'grant.error', 'userinfo.error', 'registration_create.error', 'end_session.error']) {
  provider.on(event, (_, error) => console.error(event, error.message, error.error_detail ?? ''));
}

const signInPage = (said) => `<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>Somebody else's sign-in</title>
<main><h1>Somebody else's sign-in</h1><p id="said">${said}</p><form method="post">
<label>Name <input name="login"></label> <label>Password <input name="password" type="password"></label>
<button>Go on</button> <button name="cancel" value="yes">Cancel</button></form></main></html>`;

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/sign-in/')) return next();
  await provider.interactionDetails(ctx.req, ctx.res);
  ctx.type = 'html';
  if (ctx.method === 'GET') {
    ctx.body = signInPage('');
    return undefined;
  }
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  const form = new URLSearchParams(Buffer.concat(chunks).toString());
  if (form.has('cancel')) {
    ctx.respond = false;
    return provider.interactionFinished(ctx.req, ctx.res, { error: 'access_denied', error_description: 'Not today' });
  }
  const login = form.get('login');
  if (people()[login]?.password !== form.get('password')) {
    ctx.body = signInPage('No.');
    return undefined;
  }
  ctx.respond = false;
  return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: login } });
});

const answer = provider.callback();
server.on('request', (request, response) => {
  if (!request.url.startsWith(`${path}/`)) {
    response.writeHead(404).end();
    return;
  }
  request.originalUrl = request.url;
  request.url = request.url.slice(path.length);
  answer(request, response);
});
say({ issuer });
serve({});
