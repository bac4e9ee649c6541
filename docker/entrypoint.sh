#!/bin/sh
# Secrets come as files named like the variable they are meant for (/run/secrets/REDIS_URL): they are then in no image, no
# compose file, no process list and not in what `docker inspect` shows.
set -eu
for file in "${MSD_SECRETS_FOLDER:-/run/secrets}"/[A-Z]*; do
    case "${file##*/}" in
        *[!A-Z0-9_]*) continue ;;
    esac
    if [ -f "$file" ]; then
        export "${file##*/}=$(cat "$file")"
    fi
done
exec "$@"
