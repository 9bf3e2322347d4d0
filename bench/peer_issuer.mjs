// node oidc-provider as its documentation starts it, with its in-memory store, for `bench.tokens` to measure beside ours.
// Arguments: port, folder that holds node_modules.
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [port, folder] = [Number(process.argv[2]), process.argv[3]];
const at = resolve(folder, 'node_modules/oidc-provider/lib/index.js');
const { default: Provider } = await import(pathToFileURL(at).href);
const { generateKeyPair, exportJWK } = await import(
  pathToFileURL(resolve(folder, 'node_modules/jose/dist/webapi/index.js')).href
);

const key = async (alg) => {
  const { privateKey } = await generateKeyPair(alg, { extractable: true, modulusLength: 2048 });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig' };
};
const issuer = `http://localhost:${port}`;
const provider = new Provider(issuer, {
  jwks: { keys: [await key('RS256'), await key('ES256')] },
  clients: [
    {
      client_id: 'machine', client_secret: process.env.PEER_SECRET, grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_post',
    },
    {
      client_id: 'web', client_secret: process.env.PEER_SECRET, token_endpoint_auth_method: 'client_secret_post',
      grant_types: ['authorization_code'], redirect_uris: ['http://localhost:1/callback'],
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: 'api', audience: resource, accessTokenTTL: 3600, accessTokenFormat: 'jwt',
        jwt: { sign: { alg: resource.endsWith('es') ? 'ES256' : 'RS256' } },
      }),
    },
  },
  cookies: { keys: ['bench'] },
});
provider.listen(port, '127.0.0.1', () => console.log('ready'));
