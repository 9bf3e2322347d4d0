#!/bin/bash
# Makes acme.ldif and ldapsearch.txt from a live Active Directory (Samba), which exists only while this runs.
# Needs root (a network namespace of its own, since Samba's ports cannot be chosen) and the packages in README.md.
# usage: ad_export.sh OUTPUT_FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath "$1")
work=$(mktemp -d)
space=acme-ad-$$
password=Passw0rd.Admin1
base=DC=ad,DC=acme,DC=test

finish() {
  [ -f "$work/pid" ] && kill "$(cat "$work/pid")" 2>/dev/null && tail --pid="$(cat "$work/pid")" -f /dev/null
  ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns del "$space" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

samba-tool domain provision --targetdir="$work/ad" --realm=AD.ACME.TEST --domain=ACME --server-role=dc \
  --dns-backend=NONE --use-rfc2307 --adminpass="$password" --host-name=dc1 --host-ip=127.0.0.1 \
  --option='interfaces=lo' --option='bind interfaces only=yes' > "$work/provision.log" 2>&1
mkdir "$work/ad/tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=dc1.ad.acme.test -addext subjectAltName=IP:127.0.0.1 \
  -keyout "$work/ad/tls/key.pem" -out "$work/ad/tls/cert.pem" 2>/dev/null
chmod 600 "$work/ad/tls/key.pem"
sed -i -e '/server services/d' -e '/log file/d' -e "/^\[global\]/a\\
	server services = ldap\\
	log file = $work/ad/log\\
	pid directory = $work/ad\\
	ncalrpc dir = $work/ad/ncalrpc\\
	winbindd socket directory = $work/ad/winbindd\\
	ntp signd socket directory = $work/ad/ntp_signd\\
	tls enabled = yes\\
	tls keyfile = $work/ad/tls/key.pem\\
	tls certfile = $work/ad/tls/cert.pem\\
	tls cafile = $work/ad/tls/cert.pem" "$work/ad/etc/smb.conf"

ip netns add "$space"
ip netns exec "$space" ip link set lo up
ip netns exec "$space" samba -F --no-process-group -M prefork -s "$work/ad/etc/smb.conf" \
  --option='prefork children=1' > "$work/stdout" 2>&1 < /dev/null &
echo $! > "$work/pid"
for _ in $(seq 200); do
  ip netns exec "$space" bash -c 'exec 3<>/dev/tcp/127.0.0.1/636' 2>/dev/null && break
  sleep 0.1
done

as_admin() {
  LDAPTLS_CACERT="$work/ad/tls/cert.pem" ip netns exec "$space" "$1" -x -H ldaps://127.0.0.1 \
    -D Administrator@ad.acme.test -w "$password" "${@:2}"
}

python3 "$here/ad_seed.py" | as_admin ldapadd > "$work/added"
as_admin ldapsearch -LLL -o ldif-wrap=76 -E pr=2000/noprompt -b "$base" '(objectClass=*)' '*' memberOf > "$out/acme.ldif"
as_admin ldapsearch -E pr=3/noprompt -b "OU=Contacts,OU=Corp,$base" '(objectClass=*)' > "$out/ldapsearch.txt"
