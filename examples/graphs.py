"""Who interacts with whom: an action as a graph, with its hubs, its communities and its picture."""

import networkx as nx
import numpy as np
from matplotlib.figure import Figure

import fieldtheory as ft

friends = nx.karate_club_graph()                                       # any networkx graph; its edges carry a weight
S = ft.theories.phi4(friends, mass_squared=1.0, coupling=1.0, hopping=None)  # φ⁴ on it, bonds as strong as these weights
triples = ft.SymmetricTensor.from_entries([(0, 1, 2), (8, 32, 33)], [0.2, -0.3], n_dim=S.n_dim)
S = S + ft.Action({3: triples})                                        # and two interactions of three

graph = S.to_graph(threshold=1e-3)                                     # pairs are edges, triples are nodes of their own
print("interactions of three:", {I: value for I, value in graph.nodes(data="value") if value is not None})

pairs = graph.subgraph(range(S.n_dim))
strength = dict(pairs.degree(weight="weight"))                         # Σ_j A^(2)_ij
print("hubs:", sorted(strength, key=strength.get, reverse=True)[:3])
for community in nx.community.louvain_communities(pairs, seed=0):
    print("community:", sorted(community))

T = ft.Action.from_graph(S.to_graph())                                 # nothing is lost on the way
print("the same action:", all(np.array_equal(T.couplings[k].values, S.couplings[k].values) for k in S.couplings))

figure = Figure(figsize=(7, 6), layout="constrained")
places = nx.kamada_kawai_layout(pairs, weight=None)
ft.plots.interaction_graph(figure.add_subplot(), S, positions=places)
figure.savefig("interactions.png", dpi=200)
print("picture: interactions.png")
