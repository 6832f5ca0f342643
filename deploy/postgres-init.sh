#!/bin/sh
# Run once by the PostgreSQL image on an empty volume: a database and a user each for ledgers and for MLflow.
set -eu
provide() { # user, databases...
    user=$1
    shift
    # The password reaches psql by a pipe: on a command line everybody on the machine could read it.
    printf "CREATE ROLE %s LOGIN PASSWORD '%s';\n" "$user" "$(cat "${SECRETS:-/run/secrets}/${user}_password")" | query
    for database in "$@"; do
        printf 'CREATE DATABASE %s OWNER %s;\nREVOKE CONNECT ON DATABASE %s FROM PUBLIC;\n' \
            "$database" "$user" "$database" | query
    done
}
query() {
    psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres
}
provide hpsearch hpsearch
provide mlflow mlflow mlflow_auth
