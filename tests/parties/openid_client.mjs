// An application written with openid-client, the certified relying party for Node; tokens are verified with jose from what
// the issuer publishes, and nothing else.
import { createRemoteJWKSet, jwtVerify } from 'jose';
import * as client from 'openid-client';
import { say, serve } from './lines.mjs';

const authentications = {
  client_secret_basic: (secret) => client.ClientSecretBasic(secret),
  client_secret_post: (secret) => client.ClientSecretPost(secret),
  none: () => client.None(),
  private_key_jwt: async (_, jwk) => client.PrivateKeyJwt({
    key: await crypto.subtle.importKey('jwk', jwk, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']), kid: jwk.kid,
  }),
};
const known = new Map();
let count = 0;

const plain = (answer) => ({ ...answer, claims: answer.claims?.() });

const deeds = {
  async discover({ issuer, client_id: id, secret, method, jwk }) {
    const authentication = await authentications[method](secret, jwk);
    const server = await client.discovery(new URL(issuer), id, {}, authentication, { execute: [client.allowInsecureRequests] });
    count += 1;
    known.set(count, { server });
    return { number: count, metadata: server.serverMetadata() };
  },
  async authorize({ number, redirect_uri: redirect, scope, extra }) {
    const mine = known.get(number);
    mine.verifier = client.randomPKCECodeVerifier();
    mine.state = client.randomState();
    mine.nonce = client.randomNonce();
    return client.buildAuthorizationUrl(mine.server, {
      redirect_uri: redirect,
      scope,
      state: mine.state,
      nonce: mine.nonce,
      code_challenge: await client.calculatePKCECodeChallenge(mine.verifier),
      code_challenge_method: 'S256',
      ...extra,
    }).href;
  },
  exchange: async ({ number, url, max_age: maxAge }) => {
    const mine = known.get(number);
    return plain(await client.authorizationCodeGrant(mine.server, new URL(url), {
      pkceCodeVerifier: mine.verifier, expectedState: mine.state, expectedNonce: mine.nonce, idTokenExpected: true, maxAge,
    }));
  },
  refresh: async ({ number, token }) => plain(await client.refreshTokenGrant(known.get(number).server, token)),
  credentials: async ({ number, extra }) => plain(await client.clientCredentialsGrant(known.get(number).server, extra)),
  userinfo: ({ number, token, sub }) => client.fetchUserInfo(known.get(number).server, token, sub),
  introspect: ({ number, token }) => client.tokenIntrospection(known.get(number).server, token),
  revoke: ({ number, token }) => client.tokenRevocation(known.get(number).server, token),
  logout: ({ number, id_token: hint, redirect_uri: redirect, state }) => client.buildEndSessionUrl(known.get(number).server, {
    id_token_hint: hint, post_logout_redirect_uri: redirect, state,
  }).href,
  async verify({ number, token, audience, typ }) {
    const { issuer, jwks_uri: keys } = known.get(number).server.serverMetadata();
    const { payload, protectedHeader } = await jwtVerify(token, createRemoteJWKSet(new URL(keys)), {
      issuer, audience, typ, algorithms: ['RS256', 'ES256'],
    });
    return { header: protectedHeader, claims: payload };
  },
};
say({ ready: true });
serve(deeds);
