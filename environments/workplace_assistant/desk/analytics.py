"""Visits of the web site, by day, and plots of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from kubegym import tool

from .email import within
from .tables import Table, TableRow, said

VALUES = (
    "total_visits",
    "session_duration_seconds",
    "user_engaged",
    "visits_direct",
    "visits_referral",
    "visits_search_engine",
    "visits_social_media",
)
PLOTS = ("bar", "line", "scatter", "histogram")


class Analytics:
    """The web site's analytics."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def analytics_get_visitor_information_by_id(self, visitor_id: str | None = None) -> dict[str, Any]:
        """Get the visits of a visitor.

        Args:
            visitor_id: The visitor's id.
        """
        if not visitor_id:
            return said("Visitor ID not provided.")
        visits = [row for row in self.tables["visits"].rows() if row["visitor_id"] == visitor_id]
        return said(visits or "Visitor not found.")

    @tool
    def analytics_create_plot(
        self,
        time_min: str | None = None,
        time_max: str | None = None,
        value_to_plot: str | None = None,
        plot_type: str | None = None,
    ) -> dict[str, Any]:
        """Plot a value over days; the plot's file is the answer.

        Args:
            time_min: The first day, YYYY-MM-DD.
            time_max: The last day, YYYY-MM-DD.
            value_to_plot: One of: total_visits, session_duration_seconds, user_engaged, visits_direct,
                visits_referral, visits_search_engine, visits_social_media.
            plot_type: One of: bar, line, scatter, histogram.
        """
        if not time_min or not time_max:
            return said("Start date not provided." if not time_min else "End date not provided.")
        if value_to_plot not in VALUES:
            return said(f"Value to plot must be one of {', '.join(map(repr, VALUES))}")
        if plot_type not in PLOTS:
            return said(f"Plot type must be one of {', '.join(map(repr, PLOTS))}")
        path = f"plots/{time_min}_{time_max}_{value_to_plot}_{plot_type}.png"
        self.tables["plots"].add(file_path=path)
        return said(path)

    @tool(parallel=True)
    def analytics_total_visits_count(self, time_min: str | None = None, time_max: str | None = None) -> dict[str, Any]:
        """Count visits, by day.

        Args:
            time_min: The first day, YYYY-MM-DD.
            time_max: The last day, YYYY-MM-DD.
        """
        return said(self._by_day(time_min, time_max, lambda row: 1))

    @tool(parallel=True)
    def analytics_engaged_users_count(self, time_min: str | None = None, time_max: str | None = None) -> dict[str, Any]:
        """Count engaged users, by day.

        Args:
            time_min: The first day, YYYY-MM-DD.
            time_max: The last day, YYYY-MM-DD.
        """
        return said(self._by_day(time_min, time_max, lambda row: int(row["user_engaged"] == "True")))

    @tool(parallel=True)
    def analytics_traffic_source_count(
        self, time_min: str | None = None, time_max: str | None = None, traffic_source: str | None = None
    ) -> dict[str, Any]:
        """Count the visits from a source, by day.

        Args:
            time_min: The first day, YYYY-MM-DD.
            time_max: The last day, YYYY-MM-DD.
            traffic_source: One of: direct, referral, search engine, social media.
        """
        return said(
            self._by_day(time_min, time_max, lambda row: int(traffic_source in (None, "", row["traffic_source"])))
        )

    @tool(parallel=True)
    def analytics_get_average_session_duration(
        self, time_min: str | None = None, time_max: str | None = None
    ) -> dict[str, Any]:
        """Average the seconds of a session, by day.

        Args:
            time_min: The first day, YYYY-MM-DD.
            time_max: The last day, YYYY-MM-DD.
        """
        seconds = self._by_day(time_min, time_max, lambda row: float(row["session_duration_seconds"] or 0))
        visits = self._by_day(time_min, time_max, lambda row: 1)
        return said({day: total / visits[day] for day, total in seconds.items()})

    def _by_day(
        self, time_min: str | None, time_max: str | None, value: Callable[[TableRow], float]
    ) -> dict[str, float]:
        """The sum of a value over the visits of each day."""
        days: dict[str, float] = defaultdict(int)
        for row in self.tables["visits"].rows():
            day = row["date_of_visit"] or ""
            if within(day, time_min, time_max):
                days[day] += value(row)
        return dict(days)
