#!/bin/sh
# Print the gateway's configuration: the template beside this file, with the environment's values, or the defaults that
# the template names. `sh render.sh > /tmp/nginx.conf && exec nginx -e stderr -c /tmp/nginx.conf`
set -eu
template="$(dirname "$0")/nginx.conf.template"
names=""
while read -r mark setting _; do
  [ "$mark" = "#:" ] || continue
  name="${setting%%=*}"
  eval "value=\${$name-}"
  # An empty value is the default's, as it is for the servers.
  [ -n "$value" ] || value="${setting#*=}"
  export "$name=$value"
  names="$names \$$name"
done < "$template"
exec envsubst "$names" < "$template"
