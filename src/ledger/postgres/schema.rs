//! The schema: made and migrated by the first worker that comes, under a lock.
//!
//! Changes only add, so that workers of two versions can run side by side: each migration says
//! which version of Rescind's schema a worker has to know at least to go on with it.

use deadpool_postgres::ClientWrapper;

use super::error::TxError;
use crate::ledger::LedgerError;

/// In order; `rescind_schema` says which ones were made. With each change of the schema comes the
/// oldest schema whose workers can live with it.
const MIGRATIONS: &[(&str, i64)] = &[
    (include_str!("schema/001.sql"), 1),
    // Version 1 would ignore remembered notifications.
    (include_str!("schema/002.sql"), 2),
    // Version 2 would overwrite the outcome of a replayed request.
    (include_str!("schema/003.sql"), 3),
    (include_str!("schema/004.sql"), 3),
    (include_str!("schema/005.sql"), 3),
    (include_str!("schema/006.sql"), 3),
    (include_str!("schema/007.sql"), 3),
    (include_str!("schema/008.sql"), 3),
    (include_str!("schema/009.sql"), 3),
    (include_str!("schema/010.sql"), 3),
    (include_str!("schema/011.sql"), 3),
];

/// What the migrations make.
const TABLES: &[&str] = &[
    "actions",
    "calls",
    "closings",
    "dead_letters",
    "lanes",
    "messages",
    "requests",
    "workers",
];

/// The number of the lock: any that no other program uses in this database.
const LOCK: i64 = 0x7265_7363_696e_6400;

/// The database's schema.
struct Found {
    version: i64,
    minimum: i64,
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Whether the database has this version's schema, or a newer one that this version can work with.
pub(super) async fn is_current(db: &ClientWrapper, shown: &str) -> Result<bool, TxError> {
    match look(db).await? {
        Some(found) if found.version >= known() => compatible(&found, shown).map(|()| true),
        _ => Ok(false),
    }
}

/// Brings the database to this version's schema.
pub(super) async fn migrate(db: &ClientWrapper, shown: &str) -> Result<(), TxError> {
    db.batch_execute("BEGIN").await?;
    let done = migrate_locked(db, shown).await;
    let end = match done {
        Ok(()) => "COMMIT",
        Err(_) => "ROLLBACK",
    };
    db.batch_execute(end).await?;
    done
}

/// Looks again under the lock: another worker may have migrated meanwhile.
async fn migrate_locked(db: &ClientWrapper, shown: &str) -> Result<(), TxError> {
    db.batch_execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '10min'")
        .await?;
    db.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    let found = look(db).await?;
    if let Some(found) = &found {
        compatible(found, shown)?;
    } else {
        check_free(db, shown).await?;
        check_encoding(db, shown).await?;
        db.batch_execute(
            "CREATE TABLE rescind_schema (version BIGINT PRIMARY KEY, minimum BIGINT NOT NULL,
               made_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())",
        )
        .await?;
    }
    let version = found.map_or(0, |found| found.version);
    for (number, (change, minimum)) in (1_i64..).zip(MIGRATIONS).filter(|(n, _)| *n > version) {
        db.batch_execute(change).await?;
        let note = "INSERT INTO rescind_schema (version, minimum) VALUES ($1, $2)";
        db.execute(note, &[&number, minimum]).await?;
    }
    Ok(())
}

/// No table of another program has a name of ours, where ours would be made.
async fn check_free(db: &ClientWrapper, shown: &str) -> Result<(), TxError> {
    let taken = "SELECT relname::text FROM pg_class WHERE relname = ANY($1)
         AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) ORDER BY 1 LIMIT 1";
    let Some(row) = db.query_opt(taken, &[&TABLES]).await? else {
        return Ok(());
    };
    let table: String = row.try_get(0)?;
    Err(TxError::Refused(LedgerError::Foreign {
        path: shown.into(),
        why: format!("it has a table {table} and no rescind_schema, as of another program"),
    }))
}

/// A database that cannot hold every character would one day refuse a request, at each delivery.
async fn check_encoding(db: &ClientWrapper, shown: &str) -> Result<(), TxError> {
    let row = db.query_one("SHOW server_encoding", &[]).await?;
    match row.try_get::<_, &str>(0)? {
        "UTF8" => Ok(()),
        encoding => Err(TxError::Refused(LedgerError::Refused {
            url: shown.into(),
            why: format!("its encoding is {encoding}; create it with ENCODING 'UTF8'"),
        })),
    }
}

async fn look(db: &ClientWrapper) -> Result<Option<Found>, TxError> {
    // Not to_regclass: in a transaction that waited, it still knows that there was none.
    let there = db
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM pg_class WHERE relname = 'rescind_schema' AND pg_table_is_visible(oid))",
            &[],
        )
        .await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let row = db
        .query_opt(
            "SELECT version, minimum FROM rescind_schema ORDER BY version DESC LIMIT 1",
            &[],
        )
        .await?;
    row.map(|row| {
        Ok(Found {
            version: row.try_get(0)?,
            minimum: row.try_get(1)?,
        })
    })
    .transpose()
}

/// A newer schema may be one that this version can work with.
fn compatible(found: &Found, shown: &str) -> Result<(), TxError> {
    if found.minimum <= known() {
        Ok(())
    } else {
        Err(TxError::Refused(LedgerError::TooNew {
            path: shown.into(),
            found: found.version,
            known: known(),
        }))
    }
}

/// For a command that only reads.
pub(super) async fn check(db: &ClientWrapper, shown: &str) -> Result<(), TxError> {
    match look(db).await? {
        None => {
            check_free(db, shown).await?;
            Err(TxError::Refused(LedgerError::Missing {
                path: shown.into(),
            }))
        }
        Some(found) if found.version < known() => Err(TxError::Refused(LedgerError::TooOld {
            path: shown.into(),
            found: found.version,
            known: known(),
        })),
        Some(found) => compatible(&found, shown),
    }
}
