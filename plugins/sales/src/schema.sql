-- STRICT: a sum beyond 64 bits stops the projection instead of turning into a rounded number.
CREATE TABLE orders (
    order_id       TEXT    NOT NULL PRIMARY KEY,
    household_id   TEXT    NOT NULL,
    store_id       TEXT    NOT NULL,
    placed_at      TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    items          INTEGER NOT NULL,
    units          INTEGER NOT NULL,
    sales_cents    INTEGER NOT NULL,
    discount_cents INTEGER NOT NULL,
    created_ms     INTEGER NOT NULL,
    confirmed_ms   INTEGER
) STRICT, WITHOUT ROWID;

-- Kept up to date by every event, so that a query adds up a few hundred rows instead of all orders.
CREATE TABLE store_sales (
    store_id       TEXT    NOT NULL PRIMARY KEY,
    orders         INTEGER NOT NULL,
    confirmed      INTEGER NOT NULL,
    units          INTEGER NOT NULL,
    sales_cents    INTEGER NOT NULL,
    discount_cents INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE household_sales (
    household_id   TEXT    NOT NULL PRIMARY KEY,
    orders         INTEGER NOT NULL,
    sales_cents    INTEGER NOT NULL,
    loyal          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
