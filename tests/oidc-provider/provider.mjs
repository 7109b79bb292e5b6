// A certified OpenID provider for the tests. Prints its issuer, and ends with its standard input.
//
// POST /token        client credentials; `resource=urn:ES256` chooses the signature
// POST /test/rotate  new keys from now on, none of the old ones

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const KEYS = {
  RS256: ['rsa', { modulusLength: 2048 }],
  PS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};

function key([alg, [type, options]]) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID() };
}

function provider(issuer) {
  return new Provider(issuer, {
    jwks: { keys: Object.entries(KEYS).map(key) },
    clients: [{
      client_id: 'machine',
      client_secret: 'a secret of the tests',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
    }],
    enabledJWA: { idTokenSigningAlgValues: Object.keys(KEYS) },
    extraTokenClaims: () => ({ tenant: 'acme' }),
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_context, resource) => ({
          scope: '',
          audience: 'the-application',
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: resource.replace('urn:', '') } },
        }),
      },
    },
  }).callback();
}

const server = createServer((request, response) => {
  if (request.url === '/test/rotate') {
    current = provider(issuer);
    response.end();
  } else {
    current(request, response);
  }
});
let current, issuer;
server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  current = provider(issuer);
  console.log(issuer);
});
process.stdin.resume().on('end', () => process.exit());
