#!/bin/sh
# Print the gateway's configuration: the template beside this file with the values of the environment, or the defaults in
# the template. Usage: sh render.sh > /tmp/nginx.conf && exec nginx -e stderr -c /tmp/nginx.conf
set -eu
template="$(dirname "$0")/nginx.conf.template"
names=""
while read -r mark setting _; do
  [ "$mark" = "#:" ] || continue
  name="${setting%%=*}"
  eval "value=\${$name-}"
  # An empty value means the default, as it does for the servers.
  [ -n "$value" ] || value="${setting#*=}"
  export "$name=$value"
  names="$names \$$name"
done < "$template"
exec envsubst "$names" < "$template"
