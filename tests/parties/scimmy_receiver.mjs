// A SCIM server that others wrote: scimmy behind scimmy-routers, as their own pages put them together, in memory. A
// tenant is the first segment of the path and begins empty. Says its base URL as one line of JSON, and ends with its
// standard input. `port` is a free one unless it is given.
import { randomUUID } from 'node:crypto';
import express from 'express';
import SCIMMY from 'scimmy';
import SCIMMYRouters from 'scimmy-routers';
import { say, serve } from './lines.mjs';

const { token, port = 0 } = JSON.parse(process.argv[2]);
const tenants = new Map();

function stored({ tenant }, endpoint) {
  if (!tenants.has(tenant)) tenants.set(tenant, { Users: new Map(), Groups: new Map() });
  return tenants.get(tenant)[endpoint];
}

// A page is cut here where scimmy would not cut it again; else it is given everything and cuts for itself.
function page(resource, found) {
  const { startIndex = 1, count = 20, sortBy } = resource.constraints ?? {};
  if (!resource.constraints || sortBy || (startIndex > 1 && startIndex <= count)) return found;
  resource.constraints.totalResults = found.length;
  return found.slice(startIndex - 1, startIndex - 1 + count);
}

function serves(Resource, endpoint, name) {
  SCIMMY.Resources.declare(Resource)
    .ingress((resource, data, context) => {
      const all = stored(context, endpoint);
      const known = resource.id && all.get(resource.id);
      if (resource.id && !known) throw new SCIMMY.Types.Error(404, null, `Resource ${resource.id} not found`);
      const wanted = data[name]?.toLowerCase();
      const holder = endpoint === 'Users' && context.names.get(wanted);
      if (holder && holder !== resource.id) throw new SCIMMY.Types.Error(409, 'uniqueness', `${name} is taken`);
      const now = new Date();
      const id = resource.id ?? randomUUID();
      const made = { ...JSON.parse(JSON.stringify(data)), id, meta: { created: known?.meta.created ?? now, lastModified: now } };
      if (known && endpoint === 'Users') context.names.delete(known[name].toLowerCase());
      if (endpoint === 'Users') context.names.set(wanted, id);
      all.set(id, made);
      return made;
    })
    .egress((resource, context) => {
      const all = stored(context, endpoint);
      if (resource.id) {
        if (!all.has(resource.id)) throw new SCIMMY.Types.Error(404, null, `Resource ${resource.id} not found`);
        return all.get(resource.id);
      }
      const everything = [...all.values()];
      return page(resource, resource.filter ? resource.filter.match(everything) : everything);
    })
    .degress((resource, context) => {
      const known = stored(context, endpoint).get(resource.id);
      if (!known) throw new SCIMMY.Types.Error(404, null, `Resource ${resource.id} not found`);
      if (endpoint === 'Users') context.names.delete(known[name].toLowerCase());
      stored(context, endpoint).delete(resource.id);
    });
}

serves(SCIMMY.Resources.User.extend(SCIMMY.Schemas.EnterpriseUser, false), 'Users', 'userName');
serves(SCIMMY.Resources.Group, 'Groups', 'displayName');

// Its default, a megabyte, is less than a group of 100,000 weighs.
SCIMMY.Config.set('bulk', { supported: true, maxPayloadSize: 64 * 1024 * 1024 });
const names = new Map();
const app = express();
// scimmy takes startIndex and count for numbers only, and nobody else makes numbers of them.
app.set('query parser', (text) =>
  Object.fromEntries([...new URLSearchParams(text)].map(([key, value]) => [key, /^\d+$/.test(value) ? Number(value) : value])),
);
app.use(
  '/:tenant/v2',
  new SCIMMYRouters({
    type: 'bearer',
    handler: (request) => {
      if (request.header('Authorization') !== `Bearer ${token}`) throw new Error('who are you?');
      return 'provisioning';
    },
    context: ({ params: { tenant } }) => {
      if (!names.has(tenant)) names.set(tenant, new Map());
      return { tenant, names: names.get(tenant) };
    },
  }),
);
const server = app.listen(port, '127.0.0.1', () => say({ base_url: `http://127.0.0.1:${server.address().port}` }));
serve({});
