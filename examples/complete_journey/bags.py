"""Bags: lists of ids known before the visit, one list per household and week."""

import duckdb

from examples.complete_journey.source import monday

RECENT_WEEKS = 8
RECENT_LIMIT = 50
BAG_VOCABULARIES = {"recent_categories": "category", "recent_manufacturers": "manufacturer", "campaigns": "campaign"}
BAGS = tuple(BAG_VOCABULARIES)

_RUNNING_CAMPAIGNS = f"""
CREATE TABLE running_campaigns AS
SELECT DISTINCT w.household, w.week, v.id AS campaign, d.campaign_id
FROM household_weeks w
JOIN source_campaigns c USING (household_id)
JOIN source_campaign_descriptions d ON d.campaign_id = c.campaign_id
JOIN vocabulary_campaign v ON v.value = d.campaign_id
WHERE {monday("w.week")} BETWEEN d.start_date AND d.end_date
"""

# The ids bought on most visits of the last weeks come first; the later, then the smaller id breaks ties.
_RECENT = """
CREATE TABLE {table} AS
SELECT household, week, list(id ORDER BY place) AS ids
FROM (
    SELECT w.household, w.week, b.{key}::INTEGER AS id, row_number() OVER (
        PARTITION BY w.household, w.week ORDER BY count(DISTINCT b.visit) DESC, max(b.week) DESC, b.{key}
    ) AS place
    FROM household_weeks w JOIN bought b
    ON b.household = w.household AND b.week BETWEEN w.week - {weeks} AND w.week - 1
    WHERE b.{key} > 0
    GROUP BY w.household, w.week, b.{key}
)
WHERE place <= {limit} GROUP BY household, week
"""

_BAGS = """
CREATE TABLE bags AS
SELECT w.household, w.week, {columns}
FROM household_weeks w
LEFT JOIN recent_categories USING (household, week)
LEFT JOIN recent_manufacturers USING (household, week)
LEFT JOIN (
    SELECT household, week, list(campaign ORDER BY campaign) AS ids FROM running_campaigns GROUP BY ALL
) campaigns USING (household, week)
"""


def build_bags(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates ``bags``, one row per household and week exposed, and ``running_campaigns``."""
    connection.execute("CREATE TABLE household_weeks AS SELECT DISTINCT household_id, household, week FROM exposures")
    connection.execute(_RUNNING_CAMPAIGNS)
    for table, key in (("recent_categories", "category"), ("recent_manufacturers", "manufacturer")):
        connection.execute(_RECENT.format(table=table, key=key, weeks=RECENT_WEEKS, limit=RECENT_LIMIT))
    columns = ", ".join(f"coalesce({bag}.ids, []::INTEGER[]) AS {bag}" for bag in BAGS)
    connection.execute(_BAGS.format(columns=columns))
